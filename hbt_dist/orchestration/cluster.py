"""Connecting to Ray: a running cluster, or a private one on this machine; and what it must have.

A private cluster runs with its dashboard on a free loopback port: Ray frees the workers of stopped trials
through the dashboard's server, and without it they stay for ever. The address is handed to every process
so that a second Ray on the host cannot be mistaken for this one.
"""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from hbt_dist.errors import UserError
from hbt_dist.orchestration.config import WorkerSettings


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster."""

    address: str
    private: bool
    num_cpus: float
    num_gpus: float


@contextmanager
def connect(settings: WorkerSettings, *, extra_cpus: float = 0) -> Iterator[Cluster]:
    """Connect to the cluster that the settings name; a private one ends with the block.

    Args:
        settings: address, and the CPUs that a private cluster must offer at least.
        extra_cpus: CPUs needed besides the workers'.

    Raises:
        UserError: the named cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(settings.start_timeout_seconds)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield _describe(ray.get_runtime_context().gcs_address, private=False)
        return
    address = settings.address or os.environ.get("RAY_ADDRESS") or None
    private = address == "local" or (address is None and not _cluster_here())
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": not private}
    if private:
        needed = settings.num_workers * settings.cpus_per_worker + extra_cpus
        port = free_port()
        options |= {
            "address": "local",
            "num_cpus": max(os.cpu_count() or 1, int(-(-needed // 1))),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "object_store_memory": 200 * 1024**2,
            "_temp_dir": tempfile.mkdtemp(prefix="hbt-ray-"),
            "runtime_env": {
                "env_vars": {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", **_passed_on()}
            },
        }
    else:
        options |= {"address": address or "auto", "runtime_env": {"env_vars": _passed_on()}}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"Ray cluster {options['address']!r}",
            f"cannot be used: {first}",
            "check workers.address and RAY_ADDRESS",
        ) from error
    try:
        yield _describe(ray.get_runtime_context().gcs_address, private=private)
    finally:
        ray.shutdown()


def _describe(address: str, *, private: bool) -> Cluster:
    import ray

    have = ray.cluster_resources()
    return Cluster(address, private, have.get("CPU", 0.0), have.get("GPU", 0.0))


def _cluster_here() -> bool:
    """Whether `ray start` runs on this machine."""
    from ray._private.services import find_bootstrap_address

    address = find_bootstrap_address(None)
    if address is None:
        return False
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except OSError:
        return False


#: What workers need to know of the driver's environment, where it is set.
_PASSED = (
    "DS_ACCELERATOR",
    "HF_HUB_OFFLINE",
    "HF_HOME",
    "TORCH_EXTENSIONS_DIR",
    "PYTHONWARNINGS",
    "HBT_DIST_FAULT",
)


def _passed_on() -> dict[str, str]:
    return {name: os.environ[name] for name in _PASSED if name in os.environ}


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def check_resources(cluster: Cluster, settings: WorkerSettings) -> bool:
    """Refuse to start what the cluster cannot hold; tells whether workers get a GPU.

    Raises:
        UserError: it says what is asked, what the cluster has, and what to change.
    """
    use_gpu = cluster.num_gpus >= settings.num_workers if settings.use_gpu == "auto" else settings.use_gpu
    cpus = settings.num_workers * settings.cpus_per_worker
    asked = f"{settings.num_workers} workers x {settings.cpus_per_worker:g} CPU" + (
        " + 1 GPU" if use_gpu else ""
    )
    has = f"the cluster at {cluster.address} has {cluster.num_cpus:g} CPU and {cluster.num_gpus:g} GPU"
    if cpus > cluster.num_cpus:
        remedy = "lower workers.num_workers or workers.cpus_per_worker, or add nodes"
        raise UserError("workers", f"{asked} are asked, {has}", remedy)
    if use_gpu and settings.num_workers > cluster.num_gpus:
        remedy = "lower workers.num_workers, set workers.use_gpu: false, or add GPU nodes"
        raise UserError("workers", f"{asked} are asked, {has}", remedy)
    return use_gpu
