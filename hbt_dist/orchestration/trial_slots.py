"""Count the trials that a cluster holds at once, wherever Ray places the processes that drive them.

A trial is one driving process and its workers, which Ray places later. The sum over all nodes is too large:
Ray may pack the drivers on one node, and then no worker can use its GPU. So the worst arrangement counts.

Dynamic programming over the nodes: worst[k] is the smallest number of workers that the nodes so far still
hold when they hold k drivers. Milliseconds for hundreds of nodes.
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
    """Return how many trials always get their workers; 1 if a single trial fits in the best arrangement.

    Args:
        nodes: free resources of each node.
        driver: resources of the process that drives a trial.
        worker: resources of one worker.
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
    """Return how many trials fit on one node with these resources: for nodes that do not exist yet."""
    names = {*driver, *worker}
    return _times(
        total, {name: driver.get(name, 0.0) + num_workers * worker.get(name, 0.0) for name in names}
    )


def _times(node: Resources, share: Resources) -> int:
    """Return how many shares a node holds."""
    amounts = {name: amount for name, amount in share.items() if amount > 0}
    times = (int((node.get(name, 0.0) + 1e-6) // amount) for name, amount in amounts.items())
    return min(times, default=_MANY)


def _slots(
    node: Resources, driver: Resources, num_drivers: int, worker: Resources, workers: WorkerSettings
) -> int:
    """Return the workers that a node holds next to some drivers, as far as the placement can use them."""
    left = {name: amount - num_drivers * driver.get(name, 0.0) for name, amount in node.items()}
    slots = _times(left, worker)
    if workers.placement == "STRICT_PACK":
        slots -= slots % workers.num_workers  # all workers of a trial on one node
    return max(0, slots)


def _worst(
    nodes: Sequence[Resources], driver: Resources, worker: Resources, workers: WorkerSettings, trials: int
) -> int:
    """Return the workers that fit when `trials` drivers are in their worst arrangement."""
    worst: NDArray[np.int64] = np.full(trials + 1, _NEVER)
    worst[0] = 0
    for node in nodes:
        before, worst = worst, np.full(trials + 1, _NEVER)
        for drivers in range(min(trials, _times(node, driver)) + 1):
            slots = _slots(node, driver, drivers, worker, workers)
            if workers.placement == "STRICT_SPREAD":
                slots = min(slots, trials)  # one worker of a trial per node
            total = np.minimum(before[: trials + 1 - drivers] + slots, _NEVER)
            worst[drivers:] = np.minimum(worst[drivers:], total)
    return int(worst[trials]) if worst[trials] < _NEVER else 0


def _one_may_fit(
    nodes: Sequence[Resources], driver: Resources, worker: Resources, workers: WorkerSettings
) -> bool:
    """Return whether a trial fits in the best arrangement of its driver."""
    most = 1 if workers.placement == "STRICT_SPREAD" else _MANY
    return any(
        sum(min(most, _slots(node, driver, int(i == j), worker, workers)) for j, node in enumerate(nodes))
        >= workers.num_workers
        for i, host in enumerate(nodes)
        if _times(host, driver) >= 1
    )
