"""`python -m hbt_dist`, which launchers such as torchrun start."""

from hbt_dist.cli.main import main

main()
