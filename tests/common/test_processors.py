"""Threads of a worker: affinity of real processes, control groups of both versions, OMP_NUM_THREADS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hbt_dist.common.processors import Processors, cpu_quota, divide_threads, num_processors, omp_threads

needs_two = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")


def pinned(code: str, **environment: str) -> str:
    """Run Python code on the first processor of this process only; return what it prints."""
    first = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, [{first}])\n{code}"
    env = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.strip()


@needs_two
def test_affinity_counts() -> None:
    code = (
        "from hbt_dist.common.processors import *\n"
        "print(num_processors(), divide_threads([Processors.of_this_process()]))"
    )
    assert pinned(code, OMP_NUM_THREADS="") == (
        f"1 1 thread per worker (1 of {os.cpu_count()} processors by affinity)"
    )
    assert num_processors() > 1


@needs_two
def test_evaluation_takes_no_more_threads_than_processors() -> None:
    """torch counts the processors when it is imported; a quota is as invisible to it as this change."""
    code = (
        "os.sched_setaffinity(0, range(os.cpu_count()))\n"
        "import torch; torch.set_num_threads(2)\n"
        f"os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}])\n"
        "from hbt_dist.common.devices import torch_device\n"
        "torch_device('cpu'); print(torch.get_num_threads())"
    )
    assert pinned(code) == "1"


def control_group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content + "\n")


def test_quota_of_version_2(tmp_path: Path) -> None:
    """The least quota of the group and its parents; a container sees its group as the root."""
    membership = tmp_path / "membership"
    membership.write_text("0::/pods/one\n")
    mounted = tmp_path / "cgroup"
    control_group(mounted, cgroup__controllers="cpu")
    control_group(mounted / "pods" / "one", cpu__max="max 100000")
    assert cpu_quota(mounted, membership) is None
    control_group(mounted / "pods", cpu__max="250000 100000")
    assert cpu_quota(mounted, membership) == 2.5
    control_group(mounted / "pods" / "one", cpu__max="50000 100000")
    assert cpu_quota(mounted, membership) == 0.5
    membership.write_text("0::/named/on/the/host\n")
    assert cpu_quota(mounted, membership) is None
    control_group(mounted, cpu__max="400000 100000")
    assert cpu_quota(mounted, membership) == 4


@pytest.mark.parametrize("controllers", ["cpu,cpuacct", "cpu"])
def test_quota_of_version_1(controllers: str, tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text(f"9:name=systemd:/\n4:memory:/docker/a\n3:{controllers}:/docker/a\n0::/\n")
    mounted = tmp_path / "cgroup"
    control_group(mounted / controllers, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert cpu_quota(mounted, membership) is None
    control_group(
        mounted / controllers / "docker" / "a", cpu__cfs_quota_us="200000", cpu__cfs_period_us="100000"
    )
    assert cpu_quota(mounted, membership) == 2


@pytest.mark.parametrize("content", ["", "max", "x y", "100000 0"])
def test_an_unreadable_quota_is_no_limit(content: str, tmp_path: Path) -> None:
    membership = tmp_path / "membership"
    membership.write_text("0::/\n")
    control_group(tmp_path / "cgroup", cpu__max=content)
    assert cpu_quota(tmp_path / "cgroup", membership) is None
    assert cpu_quota(tmp_path / "absent", tmp_path / "absent") is None


def worker(
    host: str, first: int, number: int, quota: float | None = None, omp: int | None = None
) -> Processors:
    return Processors(host, 64, frozenset(range(first, first + number)), quota, omp)


@pytest.mark.parametrize(
    ("workers", "threads"),
    [
        ([worker("a", 0, 64)] * 4, "16 threads per worker (64 processors for 4 workers)"),
        (
            [worker("a", 0, 64, quota=2.5)] * 2,
            "1 thread per worker (2 of 64 processors by the container's CPU quota for 2 workers)",
        ),
        (
            [worker("a", 0, 64, quota=0.5)],
            "1 thread per worker (1 of 64 processors by the container's CPU quota)",
        ),
        (
            [worker("a", 8 * i, 8) for i in range(8)],  # srun --cpus-per-task=8
            "8 threads per worker (64 processors for 8 workers)",
        ),
        ([worker("a", 0, 6)], "6 threads per worker (6 of 64 processors by affinity)"),
        ([worker("a", 0, 64), worker("b", 0, 6)], "6 threads per worker (6 of 64 processors by affinity)"),
        (
            [worker("a", 0, 64, omp=4)] * 2,
            "4 threads per worker (OMP_NUM_THREADS; 64 processors for 2 workers)",
        ),
        (
            [worker("a", 0, 2, omp=9)] * 4,
            "1 thread per worker (2 of 64 processors by affinity for 4 workers)",
        ),
    ],
)
def test_threads_are_divided_among_the_workers_of_a_host(workers: list[Processors], threads: str) -> None:
    assert str(divide_threads(workers)) == threads


@pytest.mark.parametrize(
    ("environment", "number"),
    [
        ({}, None),
        ({"OMP_NUM_THREADS": "4"}, 4),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": "0"}, None),
        ({"OMP_NUM_THREADS": ""}, None),
        ({"OMP_NUM_THREADS": "many"}, None),
        ({"OMP_NUM_THREADS": "1", "HBT_DIST_OMP_NUM_THREADS": ""}, None),  # Ray set it in a worker
        ({"OMP_NUM_THREADS": "1", "HBT_DIST_OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "1", "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}, None),
        (
            {
                "OMP_NUM_THREADS": "5",
                "RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps(
                    {"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "5"}}}
                ),
            },
            5,
        ),
    ],
)
def test_only_a_user_sets_omp_num_threads(environment: dict[str, str], number: int | None) -> None:
    assert omp_threads(environment) == number
