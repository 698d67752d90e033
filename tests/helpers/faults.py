"""Kill or stop a worker at a chosen moment, for the crash tests.

    HBT_DIST_FAULT=fault("rank=1,step=4,where=during_save,once=/tmp/mark")

makes rank 1 send itself SIGKILL in step 4 (counted from 1): nothing is caught, flushed or cleaned up, as
when a machine goes away. Without the variable nothing happens.

where    before_forward            the batch is there, nothing is computed
         between_chunks            one chunk is backpropagated, the next is not
         in_collective             inside an all-reduce that the other ranks have not reached yet
         during_save               this rank's files are written, the checkpoint has no manifest
         out_of_memory             does not die: raises torch's error of a full GPU where before_forward dies
         hang                      does not die: sleeps for 10 minutes where before_forward dies
         before_mining             after `step` steps, the model is not written yet
         during_mining             a block of the mining is a file
         slow_mining               does not die: sleeps for 12 seconds where during_mining dies
         after_mining              the mined negatives are written, no step has drawn them
         between_save_and_report   the checkpoint is complete, the launcher has not heard of it
once     a file; the fault happens only if it can be created: workers that start again live on
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World

VARIABLE = "HBT_DIST_FAULT"
IN_STEP = ("hang", "out_of_memory", "before_forward", "between_chunks", "in_collective")
MINING = ("before_mining", "during_mining", "slow_mining", "after_mining")
MOMENTS = (*IN_STEP, *MINING, "during_save", "between_save_and_report")


def fault(settings: str) -> str:
    """Return the value of `HBT_DIST_FAULT` for one of these faults."""
    return f"{__file__},{settings}"


def at(moment: str, step: int, world: World, model: nn.Module | None) -> None:
    """Do what `HBT_DIST_FAULT` requests for this moment (`hbt_dist.testing.faults`)."""
    if moment == "in_step":
        assert model is not None
        in_step(step, world, model)
        return
    requested = _requested(moment, step)
    if requested is not None and requested["rank"] == world.rank:
        _die(requested)
    if moment == "during_mining" and (slow := _requested("slow_mining", step)) is not None:
        time.sleep(12 if slow["rank"] == world.rank else 0)


def in_step(step: int, world: World, model: nn.Module) -> None:
    """Arrange the requested fault before the computation of a step."""
    for where in IN_STEP:
        requested = _requested(where, step)
        if requested is None:
            continue
        is_rank = requested["rank"] == world.rank
        if is_rank and where == "hang":
            time.sleep(600)
        elif is_rank and where == "out_of_memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 is full.")
        elif is_rank and where == "before_forward":
            _die(requested)
        elif is_rank and where == "between_chunks":
            _die_at_second_forward(requested, model)
        elif where == "in_collective":
            _die_in_collective(requested, is_rank=is_rank)


def _requested(where: str, step: int) -> dict[str, Any] | None:
    text = os.environ[VARIABLE].partition(",")[2]
    try:
        given = dict(part.split("=", 1) for part in text.split(","))
        parsed = {"rank": int(given["rank"]), "step": int(given["step"]), "where": given["where"]}
    except (ValueError, KeyError):
        parsed = {}
    if parsed.get("where") not in MOMENTS:
        expected = f"rank=R,step=S,where=W[,once=FILE]; W one of {', '.join(MOMENTS)}"
        raise UserError(VARIABLE, f"is {text!r}", expected)
    parsed["once"] = given.get("once")
    return parsed if parsed["where"] == where and parsed["step"] == step else None


def _die(requested: dict[str, Any]) -> None:
    if requested["once"] is not None:
        try:
            os.close(os.open(requested["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_second_forward(requested: dict[str, Any], model: nn.Module) -> None:
    """Only forwards with a graph count: in a cached step those are the chunks of the second pass."""
    seen = []

    def count(*_: object) -> None:
        if torch.is_grad_enabled():
            seen.append(1)
        if len(seen) == 2:
            _die(requested)

    model.register_forward_pre_hook(count)


def _die_in_collective(requested: dict[str, Any], *, is_rank: bool) -> None:
    if requested["once"] is not None and Path(requested["once"]).exists():
        return
    if is_rank:
        threading.Timer(0.3, _die, [requested]).start()
        dist.all_reduce(torch.zeros(1 << 20))
        time.sleep(60)  # alone in the world the all-reduce has already ended
    time.sleep(1)
