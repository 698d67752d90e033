"""Long work before the first step, done by every rank for itself, without anybody giving up waiting.

A collective waits for the slowest rank as long as `training.hang_timeout_seconds`. Converting and tokenising
a large corpus takes longer, and nodes with a cache of their own do not end at the same time. So the work goes
on in a thread while the ranks exchange signs of life, until all have ended or one has failed. A rank whose
process dies is noticed as in any collective.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World

Result = TypeVar("Result")

#: Seconds between two signs of life; far below any limit of a collective.
SIGN_OF_LIFE = 2.0


def on_every_rank(work: Callable[[], Result], world: World) -> Result:
    """Run `work` on every rank and return what it gave here, once all ranks have ended. Collective.

    Args:
        work: may take hours; it must not use collectives.
        world: the ranks.

    Raises:
        UserError: on all ranks, if `work` refused on one.
        Exception: what `work` raised here, or word that it failed on another rank.
    """
    if world.size == 1:
        return work()
    task = _Task(work)
    task.start()
    pause = 0.05
    while True:
        every: list[Any] = [None] * world.size
        dist.all_gather_object(every, task.state(), group=world.group)
        failed = [rank for rank, state in enumerate(every) if state not in ("working", "done")]
        if failed:
            if task.problem is not None:
                raise task.problem
            refused = next((every[rank] for rank in failed if isinstance(every[rank], UserError)), None)
            raise refused or RuntimeError(f"rank {failed[0]}: {every[failed[0]]}")
        if "working" not in every:
            task.join()
            return task.result[0]
        task.join(pause)
        pause = min(2 * pause, SIGN_OF_LIFE)


def wait_for_rank_0(work: Callable[[], None], world: World) -> None:
    """Run `work` on rank 0 while the others wait; if it refuses, all ranks raise the same. Collective."""
    on_every_rank(work if world.rank == 0 else lambda: None, world)


class _Task(threading.Thread):
    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(name="preparation", daemon=True)  # it does not keep a process that has given up
        self._work = work
        self.result: list[Any] = []
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self.result.append(self._work())
        except BaseException as error:  # raised by the other thread
            self.problem = error

    def state(self) -> Any:
        """What the other ranks are told: "working", "done", or why not."""
        if self.problem is None:
            return "done" if self.result else "working"
        if isinstance(self.problem, UserError):
            return self.problem
        return f"{type(self.problem).__name__}: {self.problem}"
