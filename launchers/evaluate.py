"""Evaluate a model with actors of a Ray cluster, each encoding and scoring a part of every pool.

    ray submit ray_configs/CLUSTER.yaml launchers/evaluate.py -- --model /shared/runs/NAME/model \\
        --benchmark xquad-r --data-dir /shared/data/xquad-r --output /shared/evaluation --actors 4 \\
        --set cache_dir=/shared/embeddings
    ray job submit --working-dir . -- python launchers/evaluate.py --model ... (as above)
    python launchers/evaluate.py --model ... --benchmark sample --output OUT --actors 2     (this machine)

Does the same as `hbt-dist evaluate --launcher ray`, because `ray submit` needs a file to copy. Model, data,
cache_dir and output must be hub names, or paths that are valid on every node. All digits equal those of one
process.
"""

import sys

from hbt_dist.cli.main import main

if __name__ == "__main__":
    sys.argv = ["hbt-dist", "evaluate", "--launcher", "ray", *sys.argv[1:]]
    main()
