"""Count the processors that a process may use, and divide them among the workers of a host.

Schedulers and containers grant fewer processors than the machine has: by affinity (taskset, Slurm, cpusets)
or by a CPU quota of the control group (docker --cpus, Kubernetes limits). More threads than processors wait
for each other in every small matrix product.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hbt_dist.common.console import counted

#: Carries the driver's OMP_NUM_THREADS to Ray's workers, where Ray sets the variable itself.
DRIVER_THREADS = "HBT_DIST_OMP_NUM_THREADS"
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Processors:
    """The processors that one process may use.

    Attributes:
        host: name of the machine.
        installed: processors of the machine.
        allowed: numbers of the processors in the affinity mask.
        quota: processors that the control group grants; None without a limit.
        omp_threads: OMP_NUM_THREADS; None if it is not set.
    """

    host: str
    installed: int
    allowed: frozenset[int]
    quota: float | None = None
    omp_threads: int | None = None

    @classmethod
    def of_this_process(cls) -> Processors:
        """Return the processors of the running process."""
        installed = os.cpu_count() or 1
        known = hasattr(os, "sched_getaffinity")  # on Linux
        allowed = os.sched_getaffinity(0) if known else range(installed)
        return cls(socket.gethostname(), installed, frozenset(allowed), cpu_quota(), omp_threads(os.environ))


@dataclass(frozen=True, order=True)
class Threads:
    """Threads of a worker.

    Attributes:
        number: of threads.
        reason: what the number comes from.
        limited: affinity, a quota or OMP_NUM_THREADS leaves fewer threads than the machine has processors.
    """

    number: int
    reason: str
    limited: bool

    def __str__(self) -> str:
        return f"{counted(self.number, 'thread')} per worker ({self.reason})"


def num_processors() -> int:
    """Return how many processors this process may use: the least of affinity and quota, at least 1."""
    return _share([Processors.of_this_process()]).number


def divide_threads(workers: Sequence[Processors]) -> Threads:
    """Return the threads of every worker, equal for all workers.

    A scheduler may bind each worker to different processors, so those of a host are united before the
    division. OMP_NUM_THREADS limits each worker.
    """
    hosts: dict[str, list[Processors]] = {}
    for worker in workers:
        hosts.setdefault(worker.host, []).append(worker)
    least = min(map(_share, hosts.values()))
    omp = min((worker.omp_threads for worker in workers if worker.omp_threads is not None), default=None)
    if omp is not None and omp < least.number:
        return Threads(omp, f"OMP_NUM_THREADS; {least.reason}", True)
    return least


def _share(workers: Sequence[Processors]) -> Threads:
    """Return the threads of each worker of one host, at least 1."""
    allowed = len(frozenset[int]().union(*(worker.allowed for worker in workers)))
    quota = min((worker.quota for worker in workers if worker.quota is not None), default=None)
    granted, installed, reason = allowed, workers[0].installed, "processors"
    if quota is not None and quota < allowed:
        granted, reason = max(1, int(quota)), "processors by the container's CPU quota"
    elif allowed < installed:
        reason = "processors by affinity"
    of_all = f" of {installed}" if granted < installed else ""
    shared = f" for {len(workers)} workers" if len(workers) > 1 else ""
    return Threads(
        max(1, granted // len(workers)), f"{granted}{of_all} {reason}{shared}", granted < installed
    )


def omp_threads(environment: Mapping[str, str]) -> int | None:
    """Return the OMP_NUM_THREADS that a user has set, or None.

    Ray sets the variable in its workers and jobs, so the value of the driver or of the job counts there.
    """
    job = json.loads(environment.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    if DRIVER_THREADS in environment:
        text = environment[DRIVER_THREADS]
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" in environment:
        text = (job.get("env_vars") or {}).get("OMP_NUM_THREADS", "")
    else:
        text = environment.get("OMP_NUM_THREADS", "")
    number = re.match(r"\s*(\d+)\s*(,|$)", text)  # a list has one number per nesting level
    return (int(number[1]) or None) if number else None


def cpu_quota(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float | None:
    """Return the processors that the control groups of this process grant; None without a limit.

    Args:
        cgroups: where the control groups are mounted, version 1 or 2.
        membership: the file that names the groups of the process.
    """
    quotas = [quota for folder in _groups(cgroups, membership) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders whose quota applies: a group and its parents, up to the mounted root.

    In a container the group may be named as the host sees it; then only the root exists.
    """
    lines = []
    with suppress(OSError):
        lines = membership.read_text("utf-8").splitlines()
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        names = [controllers, "cpu"] if controllers else [""]
        mounted = next((cgroups / name for name in names if (cgroups / name).is_dir()), cgroups)
        folder = mounted / group.lstrip("/")
        yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(mounted))


def _quota(folder: Path) -> float | None:
    """Return the quota of one control group, in processors."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = (folder / "cpu.max").read_text("utf-8").split()
        return None if limit == "max" else int(limit) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        microseconds = int((folder / "cpu.cfs_quota_us").read_text("utf-8"))
        period_us = int((folder / "cpu.cfs_period_us").read_text("utf-8"))
        return microseconds / period_us if microseconds > 0 else None
    return None
