"""One of the processes that `hbt-dist doctor` starts: `python -m hbt_dist.doctor.rank FOLDER`.

Reads engine.json (a `deepspeed` block of a run file), forms a process group with the others, sums a vector
over it, checks the gradient, and (rank 0) writes answer.json.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings
from hbt_dist.training.runtime import EnvironmentRuntime
from hbt_dist.training.self_check import self_check


def main(folder: Path) -> None:
    """Be one rank."""
    engine = DeepSpeedSettings.model_validate_json((folder / "engine.json").read_text("utf-8"))
    torch.set_num_threads(1)
    with EnvironmentRuntime() as runtime:
        began = time.monotonic()
        ones = torch.ones(1_000_000, device=runtime.device)
        dist.all_reduce(ones)
        if ones.min() != runtime.world_size or ones.max() != runtime.world_size:
            raise RuntimeError(f"the sum of ones over {runtime.world_size} ranks is {ones.min():g}")
        seconds = time.monotonic() - began
        check = self_check(World(runtime.rank, runtime.world_size, runtime.device), engine)
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
