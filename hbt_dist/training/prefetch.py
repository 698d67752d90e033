"""Collate the rows of the next step in a thread while the current step runs.

The rows of a step depend on the run file and the step alone, so prefetching changes only the time: planning
and gathering 8,192 rows take tens of milliseconds, with code-switching (which tokenises) hundreds. A thread
suffices: while it holds the interpreter, a GPU works on the chunks that were launched before. The figure
`seconds_planning` of a step is the time that the loop waited for its rows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from hbt_dist.batching.collate import LocalBatch, collate
from hbt_dist.contrastive.world import World
from hbt_dist.run_file import RunFile
from hbt_dist.training.preparation import Prepared

Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Make the items of steps, each once, one step ahead; in one thread, so `make` may keep caches.

    Args:
        make: returns the item of a step.
        total: steps from here on are not made.
    """

    def __init__(self, make: Callable[[int], Item], total: int) -> None:
        self._make, self._total = make, total
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._next: tuple[int, Future[Item]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> Item:
        """Return the item of a step; raise what `make` raised for it."""
        future = self._next[1] if self._next is not None and self._next[0] == step else None
        item = (future or self._thread.submit(self._make, step)).result()
        self._next = None
        if step + 1 < self._total:
            self._next = step + 1, self._thread.submit(self._make, step + 1)
        return item


def prefetch_rows(run: RunFile, world: World, prepared: Prepared, last: int) -> Prefetcher[LocalBatch]:
    """Return this rank's rows of every step before `last`."""

    def make(step: int) -> LocalBatch:
        local = collate(
            prepared.plan.batch(step),
            prepared.corpus,
            prepared.tokens,
            world.rank,
            world.size,
            aligned_seed=run.seed if run.loss.alignment_weight > 0 else None,
            transform=prepared.transform,
        )
        return prepared.teachers.add_to(local, prepared.corpus, run.loss)

    return Prefetcher(make, last)
