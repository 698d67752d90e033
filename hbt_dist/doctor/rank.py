"""Run one rank of the collectives check of `hbt-dist doctor`: `python -m hbt_dist.doctor.rank FOLDER`.

Reads engine.json (the `deepspeed` block of a run file), joins the process group, sums a vector over it and
checks the gradient. Rank 0 writes answer.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from hbt_dist.common.precision import products
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.runtime import EnvironmentRuntime
from hbt_dist.training.self_check import self_check


@products("ieee")  # as in training
def main(folder: Path) -> None:
    """Run the check on this rank.

    Raises:
        RuntimeError: the sum is wrong.
    """
    engine = DeepSpeedSettings.model_validate_json((folder / "engine.json").read_text("utf-8"))
    torch.set_num_threads(1)
    with EnvironmentRuntime() as runtime:
        began = time.monotonic()
        vector = torch.ones(1_000_000, device=runtime.device)
        dist.all_reduce(vector)
        if not (vector == runtime.world_size).all():
            raise RuntimeError(f"the sum of ones over {runtime.world_size} ranks is {vector.min():g}")
        seconds = time.monotonic() - began
        deepspeed = resolve_deepspeed(engine, gradient_clipping=1.0, device_type=runtime.device.type)
        check = self_check(World(runtime.rank, runtime.world_size, runtime.device), deepspeed)
        if runtime.rank == 0:
            answer = {
                "seconds": seconds,
                "engine": check.engine,
                "passed": check.passed,
                "gradient_error": check.gradient_error,
                "tolerance": check.tolerance,
            }
            (folder / "answer.json").write_text(json.dumps(answer), "utf-8")
        dist.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
