"""Train a run file: every launcher starts this script.

    ray submit ray_configs/CLUSTER.yaml launchers/train.py -- RUN.yaml [KEY=VALUE ...]
    ray job submit --working-dir . -- python launchers/train.py RUN.yaml [KEY=VALUE ...]
    deepspeed --no_local_rank --num_gpus 2 launchers/train.py RUN.yaml [KEY=VALUE ...]
    torchrun --nproc_per_node 2 launchers/train.py RUN.yaml [KEY=VALUE ...]
    accelerate launch --num_processes 2 launchers/train.py RUN.yaml [KEY=VALUE ...]
    srun python launchers/train.py RUN.yaml [KEY=VALUE ...]
    python launchers/train.py RUN.yaml [KEY=VALUE ...]

If a launcher has set RANK (or Slurm its process number), this process is a worker; otherwise Ray starts the
workers that the run file requests. Needs only the installed package: `ray submit` copies only this file.
"""

import os
import sys

from hbt_dist.cli.main import main

if __name__ == "__main__":
    many_tasks = int(os.environ.get("SLURM_NTASKS", "1")) > 1 and "SLURM_PROCID" in os.environ
    launcher = "local" if "RANK" in os.environ or many_tasks else "ray"
    sys.argv = ["hbt-dist", "train", *sys.argv[1:], "--launcher", launcher]
    main()
