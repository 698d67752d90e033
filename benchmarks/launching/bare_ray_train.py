"""Start Ray Train alone: two workers import transformers and DeepSpeed, and the first writes a file.

    python benchmarks/launching/bare_ray_train.py FOLDER

The least time in which any program can start such workers; `start_profile.py` runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer


def train(config: dict[str, Any]) -> None:
    import deepspeed  # noqa: F401
    import transformers.modeling_utils  # noqa: F401

    if ray.train.get_context().get_world_rank() == 0:
        metrics = Path(config["folder"]) / "out" / "metrics.jsonl"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text("imported\n", "utf-8")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    TorchTrainer(
        train,
        train_loop_config={"folder": sys.argv[1]},
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(storage_path=f"{sys.argv[1]}/ray"),
    ).fit()
