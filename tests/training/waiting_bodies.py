"""What every rank runs in tests/training/test_waiting.py."""

from __future__ import annotations

import os
import time
from typing import Any

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.jobs import train as training_job
from hbt_dist.run_file import RunFile
from hbt_dist.training import start
from hbt_dist.training.ranks import on_every_rank, wait_for_rank_0


def slow_start(world: World, run: dict[str, Any], port: int, slow: str, rank: int, seconds: float) -> int:
    """Train as a process of torchrun, with one step of the start slow on one rank; gives the last step."""
    dist.destroy_process_group()
    place = {"RANK": world.rank, "LOCAL_RANK": world.rank, "WORLD_SIZE": world.size}
    place |= {"LOCAL_WORLD_SIZE": world.size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    module: Any = {"check_benchmarks": training_job, "prepare": start}[slow]
    before = getattr(module, slow)

    def slowly(*arguments: Any) -> Any:
        if world.rank == rank:
            time.sleep(seconds)
        return before(*arguments)

    setattr(module, slow, slowly)
    folder = training_job.train_job(RunFile.model_validate(run), "local", quiet=True)
    dist.init_process_group("gloo", init_method=f"file://{folder.root}/store", **_as(world))  # for the helper
    return max(folder.checkpoint_steps())


def _as(world: World) -> dict[str, int]:
    return {"rank": world.rank, "world_size": world.size}


def outcomes(world: World) -> list[str]:
    """What `on_every_rank` gives: results, one rank's refusal, one rank's fault, a refusal of rank 0."""

    def refuse() -> None:
        raise UserError("here", "wrong", "right")

    def fail_on_1() -> None:
        if world.rank == 1:
            raise KeyError("a bug")
        time.sleep(600)  # the others do not wait for it

    done: list[int] = []
    found = [str(on_every_rank(lambda: world.rank * 10, world))]
    for call in (
        lambda: on_every_rank(refuse if world.rank == 1 else lambda: time.sleep(600), world),
        lambda: on_every_rank(fail_on_1, world),
        lambda: wait_for_rank_0(refuse, world),
        lambda: wait_for_rank_0(lambda: done.append(1), world),
    ):
        try:
            call()
            found.append(f"done {len(done)}")
        except Exception as error:
            found.append(f"{type(error).__name__} {' '.join(str(error).split())}")
    return found
