"""How many trials a cluster holds: against every arrangement of the drivers, tried one by one."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import Cluster
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.orchestration.trial_slots import trials_that_fit
from hbt_dist.orchestration.tune import concurrent_trials

GPU_NODE = {"CPU": 8.0, "GPU": 1.0}


def trials(nodes: list[dict[str, float]], driver: float, worker: dict[str, float], **settings: Any) -> int:
    return trials_that_fit(nodes, {"CPU": driver}, worker, WorkerSettings(**settings))


def test_drivers_that_ray_packs_on_one_node_do_not_starve_a_trial() -> None:
    """By totals four: but with four drivers on one node no worker of 6 CPUs fits beside them."""
    assert trials([GPU_NODE] * 4, 1, {"CPU": 6, "GPU": 1}) == 3
    assert trials([GPU_NODE] * 4, 1, {"CPU": 1, "GPU": 1}) == 4


def test_drivers_on_a_node_of_their_own_cost_nothing() -> None:
    nodes = [{"CPU": 8.0, "DRIVER": 1.0}, *[{"CPU": 8.0, "GPU": 8.0}] * 2]
    found = trials_that_fit(
        nodes, {"DRIVER": 0.01}, {"CPU": 1, "GPU": 1}, WorkerSettings(num_workers=8, placement="STRICT_PACK")
    )
    assert found == 2


def test_one_trial_that_fits_only_if_its_driver_lies_well_is_tried() -> None:
    assert trials([{"CPU": 8}, {"CPU": 1}], 1, {"CPU": 8}) == 1
    assert trials([{"CPU": 8}], 1, {"CPU": 8}) == 0


def test_a_driver_without_resources_fits_on_every_node() -> None:
    assert trials([{"CPU": 2}], 0, {"CPU": 1}) == 2


@pytest.mark.parametrize("seed", range(30))
def test_the_worst_arrangement_is_found(seed: int) -> None:
    draw = random.Random(seed)
    nodes = [{"CPU": float(draw.randint(0, 9))} for _ in range(draw.randint(1, 3))]
    worker, driver, number = draw.randint(1, 4), draw.randint(1, 3), draw.randint(1, 2)
    always = 0
    for many in range(1, 12):
        rooms = [
            sum(
                int((node["CPU"] - driver * count) // worker)
                for node, count in zip(nodes, counts, strict=True)
            )
            for counts in itertools.product(range(many + 1), repeat=len(nodes))
            if sum(counts) == many
            and all(driver * count <= node["CPU"] for node, count in zip(nodes, counts, strict=True))
        ]
        if not rooms or min(rooms) < many * number:
            break
        always = many
    found = trials(nodes, driver, {"CPU": worker}, num_workers=number)
    assert found == always or (always, found) == (0, 1)


def test_what_other_jobs_hold_does_not_count() -> None:
    cluster = Cluster("x:1", False, 32, 4, (GPU_NODE,) * 4)
    workers = WorkerSettings(cpus_per_worker=1)
    free: list[dict[str, float]] = [GPU_NODE, GPU_NODE, {"CPU": 8.0}, {"CPU": 8.0}]
    assert concurrent_trials(cluster, workers, {"CPU": 1}, cluster.nodes) == 4
    assert concurrent_trials(cluster, workers, {"CPU": 1}, free) == 2
    assert concurrent_trials(cluster, workers, {"CPU": 1}, [{}] * 4) == 1, "it waits for the others"
    with pytest.raises(UserError, match="a trial needs 4 workers"):
        concurrent_trials(cluster, WorkerSettings(num_workers=4), {"CPU": 1, "GPU": 1}, cluster.nodes)


def test_a_cluster_that_grows_is_judged_by_what_it_may_become() -> None:
    head_only = Cluster("x:1", False, 2, 0, ({"CPU": 2},), {"CPU": 96, "GPU": 8})
    assert concurrent_trials(head_only, WorkerSettings(num_workers=2), {"CPU": 1}, [{"CPU": 2}]) == 4
