"""The rows of the next step are put together in a thread while this step runs.

What a step trains on depends on the run file and the step alone, so nothing changes but the time: planning
and gathering 8,192 rows take tens of milliseconds, with code-switching (which tokenises) hundreds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

from hbt_dist.batching.collate import LocalBatch, collate
from hbt_dist.contrastive.world import World
from hbt_dist.run_file import RunFile
from hbt_dist.training.preparation import Prepared

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Makes the items of steps, each once, one step ahead; in one thread, so `make` may keep caches.

    Args:
        make: the item of a step.
        total: no step from here on is made.
    """

    def __init__(self, make: Callable[[int], Item], total: int) -> None:
        self._make, self._total = make, total
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._coming: tuple[int, Future[Item]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def take(self, step: int) -> Item:
        """The item of a step; what `make` raised for it is raised here."""
        coming = self._coming
        found = (
            coming[1] if coming is not None and coming[0] == step else self._thread.submit(self._make, step)
        )
        item = found.result()
        self._coming = None
        if step + 1 < self._total:
            self._coming = step + 1, self._thread.submit(self._make, step + 1)
        return item


def rows_ahead(run: RunFile, world: World, prepared: Prepared) -> Ahead[LocalBatch]:
    """This rank's rows of every step of a run."""

    def make(step: int) -> LocalBatch:
        return collate(
            prepared.plan.batch(step),
            prepared.corpus,
            prepared.tokens,
            world.rank,
            world.size,
            aligned_seed=run.seed if run.loss.alignment_weight > 0 else None,
            switcher=prepared.switcher,
        )

    return Ahead(make, run.training.steps)
