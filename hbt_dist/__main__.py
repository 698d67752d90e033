"""`python -m hbt_dist`, which launchers such as torchrun start."""

from hbt_dist.cli import main

main()
