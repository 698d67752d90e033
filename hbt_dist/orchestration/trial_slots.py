"""How many trials a cluster holds at once, wherever Ray puts the processes that drive them.

A trial is one process that drives it and then its workers, which Ray places later. Totals say too much: Ray
may pack the drivers on one node whose GPU no worker can use then. So the worst arrangement of them counts.

Found by adding node after node: worst[k] is the smallest number of workers that the nodes so far still hold
when they hold k drivers. Milliseconds for hundreds of nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from hbt_dist.orchestration.settings import WorkerSettings

Resources = Mapping[str, float]
_MANY = 10_000  # processes on one node or trials in all: no limit in practice
_NEVER = np.iinfo(np.int64).max // 2


def trials_that_fit(
    nodes: Sequence[Resources], driver: Resources, worker: Resources, workers: WorkerSettings
) -> int:
    """How many trials always get their workers; 1 where a single trial may, but need not.

    Args:
        nodes: what each node has to give.
        driver: what the process of a trial reserves.
        worker: what one worker reserves.
        workers: their number and placement.
    """
    slots = sum(_times(node, worker) for node in nodes)
    low, high = 0, min(_MANY, slots // workers.num_workers)
    while low < high:  # the more trials, the worse
        middle = (low + high + 1) // 2
        if _worst(nodes, driver, worker, workers, middle) >= middle * workers.num_workers:
            low = middle
        else:
            high = middle - 1
    return low or int(_one_may_fit(nodes, driver, worker, workers))


def trials_in_all(total: Resources, driver: Resources, worker: Resources, num_workers: int) -> int:
    """How many trials some resources hold, as if they were one node: for nodes that are yet to come."""
    names = {*driver, *worker}
    return _times(
        total, {name: driver.get(name, 0.0) + num_workers * worker.get(name, 0.0) for name in names}
    )


def _times(node: Resources, share: Resources) -> int:
    """How many shares a node holds."""
    return min(int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in share.items() if amount > 0)


def _slots(node: Resources, taken: Resources, drivers: int, worker: Resources, usable: WorkerSettings) -> int:
    """The workers that a node holds beside some drivers, as far as the placement can use them."""
    left = {name: amount - drivers * taken.get(name, 0.0) for name, amount in node.items()}
    slots = _times(left, worker)
    if usable.placement == "STRICT_PACK":
        slots -= slots % usable.num_workers  # all workers of a trial on one node
    return max(0, slots)


def _worst(
    nodes: Sequence[Resources], driver: Resources, worker: Resources, workers: WorkerSettings, trials: int
) -> int:
    """The workers for which there is room when `trials` drivers lie as badly as can be."""
    worst: NDArray[np.int64] = np.full(trials + 1, _NEVER)
    worst[0] = 0
    for node in nodes:
        before, worst = worst, np.full(trials + 1, _NEVER)
        for drivers in range(min(trials, _times(node, driver)) + 1):
            slots = _slots(node, driver, drivers, worker, workers)
            if workers.placement == "STRICT_SPREAD":
                slots = min(slots, trials)  # one worker of a trial per node
            with_these = before[: trials + 1 - drivers] + slots
            worst[drivers:] = np.minimum(worst[drivers:], np.minimum(with_these, _NEVER))
    return int(worst[trials]) if worst[trials] < _NEVER else 0


def _one_may_fit(
    nodes: Sequence[Resources], driver: Resources, worker: Resources, workers: WorkerSettings
) -> bool:
    """Whether a trial fits if its driver lies well."""
    most = 1 if workers.placement == "STRICT_SPREAD" else _MANY
    for place, chosen in enumerate(nodes):
        if _times(chosen, driver) < 1:
            continue
        room = (
            min(most, _slots(node, driver, int(number == place), worker, workers))
            for number, node in enumerate(nodes)
        )
        if sum(room) >= workers.num_workers:
            return True
    return False
