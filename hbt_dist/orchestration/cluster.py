"""Connecting to Ray: a running cluster, or a private one on this machine; and what it must have.

A private cluster runs with its dashboard on a free loopback port: Ray frees the workers of stopped trials
through the dashboard's server, and without it they stay for ever. The address is handed to every process
so that a second Ray on the host cannot be mistaken for this one. A small process beside it cleans up after a
driver that was killed.

To a cluster of other machines the package goes with the driver when that runs from a checkout (1 MB, once),
so that no node trains with other code than the one that was started; and so do modules of the user's own that
a run names, unless they are installed.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hbt_dist
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import user_modules
from hbt_dist.orchestration.cleanup import Janitor
from hbt_dist.orchestration.settings import WorkerSettings


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster."""

    address: str
    private: bool
    num_cpus: float
    num_gpus: float
    nodes: tuple[dict[str, float], ...] = ()  # resources of each living node
    growth: dict[str, float] | None = None  # what an autoscaler may grow the cluster to; none: it stays


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
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker comes twice
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield _describe(ray.get_runtime_context().gcs_address, private=False)
        return
    address = find_cluster(settings)
    private = address is None
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": not private}
    janitor: Janitor | None = None
    if address is None:
        place = tempfile.mkdtemp(prefix="hbt-ray-")
        janitor = Janitor(Path(place))
        needed = settings.num_workers * settings.cpus_per_worker + extra_cpus
        port = free_port()
        options |= {
            "address": "local",
            "num_cpus": max(os.cpu_count() or 1, int(-(-needed // 1))),
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": port,
            "object_store_memory": 200 * 1024**2,
            "_temp_dir": place,
            "runtime_env": {
                "env_vars": {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", **_passed_on()}
            },
        }
    else:
        _check_answers(address)
        options |= {"address": address, "runtime_env": _runtime_environment()}
    try:
        ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"Ray cluster {options['address']!r}",
            f"cannot be used: {' '.join(str(error).split())[:300]}",
            "check workers.address and RAY_ADDRESS, that the head runs ('ray status' there),\n"
            "and that Ray and Python have the same versions here and there",
        ) from error
    finished = False
    try:
        yield _describe(ray.get_runtime_context().gcs_address, private=private)
        finished = True
    finally:
        ray.shutdown()
        if janitor is not None:
            janitor.end(goodbye=finished)


def _describe(address: str, *, private: bool) -> Cluster:
    import ray
    from ray._private.state import state

    nodes = tuple(dict(node["Resources"]) for node in ray.nodes() if node["Alive"])
    most: dict[str, Any] | None = None if private else state.get_max_resources_from_cluster_config()
    growth = {name: float(amount) for name, amount in most.items()} if most else None
    have = ray.cluster_resources()
    return Cluster(address, private, have.get("CPU", 0.0), have.get("GPU", 0.0), nodes, growth)


def find_cluster(settings: WorkerSettings) -> str | None:
    """The address of the cluster that would be used; none: a private one on this machine."""
    address = settings.address or os.environ.get("RAY_ADDRESS") or None
    if address == "local" or (address is None and not _cluster_here()):
        return None
    return address or "auto"


def _check_answers(address: str, seconds: float = 10) -> None:
    """Refuse an address where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not host or not port.isdigit() or "/" in host:
        raise UserError(
            f"Ray cluster {address!r}",
            "is not host:port",
            "name the head's address and port, such as 192.0.2.10:6379; from a machine outside the\n"
            "cluster use 'ray submit' or 'ray job submit'",
        )
    try:
        with socket.create_connection((host, int(port)), timeout=seconds):
            pass
    except OSError as error:
        raise UserError(
            f"Ray cluster {address!r}",
            f"does not answer: {error.strerror or error}",
            "check workers.address and RAY_ADDRESS, that Ray runs there ('ray status'), and the firewall",
        ) from error


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


#: What workers need to know of the driver's environment, where it is set: names, and beginnings of names.
#: Not DS_ACCELERATOR: the driver may run on a head without a GPU.
_PASSED = (
    "DS_LOG_LEVEL",
    "LOG_LEVEL",
    "TORCH_EXTENSIONS_DIR",
    "PYTHONWARNINGS",
    "HBT_DIST_FAULT",
)
_FAMILIES = ("NCCL_", "TORCH_NCCL_", "GLOO_", "FI_", "UCX_", "HF_", "TRANSFORMERS_")
#: Never passed: Ray's dashboard shows to everybody what is passed.
_SECRET = ("_TOKEN", "_SECRET", "_PASSWORD", "_KEY")


def _passed_on() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or (name.startswith(_FAMILIES) and not name.endswith(_SECRET))
    }


def _runtime_environment() -> dict[str, Any]:
    """What workers on a named cluster get from the driver: settings, and the package if it is a checkout.

    Inside a Ray job the job's own runtime environment has been applied already; Ray refuses to merge two that
    name the same thing, so what the job brings is left out.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    brought = job.get("env_vars") or {}
    environment: dict[str, Any] = {
        "env_vars": {name: value for name, value in _passed_on().items() if name not in brought}
    }
    package = Path(hbt_dist.__file__).resolve().parent
    checkout = (package.parent / "pyproject.toml").is_file()
    modules = [*([str(package)] if checkout else []), *user_modules()]
    if modules and "py_modules" not in job and "working_dir" not in job:
        environment |= {"py_modules": modules, "excludes": ["__pycache__/"]}
    return environment


def free_port() -> int:
    """A TCP port on loopback that nobody uses now and no outgoing connection will take.

    Connections get theirs from 32768 on (Linux's default), and Ray's workers from 10002 to 19999: a port of
    those that was free a moment ago is sometimes taken when a server comes to listen on it.
    """
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free TCP port from 20000 to 29999 on 127.0.0.1")


def check_resources(cluster: Cluster, settings: WorkerSettings) -> bool:
    """Refuse to start what the cluster cannot hold; tells whether workers get a GPU.

    A cluster that an autoscaler grows is judged by what it may grow to. Where there are GPUs, but fewer than
    workers, `use_gpu: auto` is refused too: a node may have come late, and a CPU is no substitute.

    Raises:
        UserError: it says what is asked, what the cluster has, and what to change.
    """
    use_gpu = has_gpus(cluster) if settings.use_gpu == "auto" else settings.use_gpu
    share = worker_resources(settings, use_gpu)
    check_shares(cluster, settings.fewest, share, "workers", _remedy, settings.placement)
    return use_gpu


def has_gpus(cluster: Cluster) -> bool:
    """Whether there is a GPU in the cluster or in what it may grow to."""
    return _total(cluster)["GPU"] > 0


def _total(cluster: Cluster) -> dict[str, float]:
    total = {"CPU": cluster.num_cpus, "GPU": cluster.num_gpus}
    for name, amount in (cluster.growth or {}).items():
        total[name] = max(total.get(name, 0.0), float(amount))
    return total


def check_shares(
    cluster: Cluster,
    number: int,
    share: dict[str, float],
    what: str,
    remedy: Callable[[Sequence[str]], str],
    placement: str = "PACK",
) -> None:
    """Refuse `number` processes that each reserve `share` where the cluster cannot hold them.

    Args:
        what: they are called.
        remedy: what to do, given the resources that are short.
        placement: of `WorkerSettings`.

    Raises:
        UserError: it says what is asked, what the cluster has, and what to change.
    """
    total = _total(cluster)
    asked = f"{number} {what} x ({in_words(share)}) are asked"
    has = f"the cluster at {cluster.address} has {describe_nodes(cluster.nodes, total)}"
    short = [name for name in ("CPU", "GPU") if share.get(name, 0.0) * number > total.get(name, 0.0) + 1e-9]
    if short:
        raise UserError(what, f"{asked}, {has}", remedy(short))
    problem = None if cluster.growth is not None else _placement_problem(cluster, number, share, placement)
    if problem:
        raise UserError(what, f"{asked}; {problem}; {has}", remedy(list(share)))


def without_gpus() -> dict[str, Any]:
    """Runtime environment of processes that reserve no GPU.

    Ray itself hides none from them, and what they took would be somebody else's.
    """
    return {"env_vars": {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}}


def worker_resources(settings: WorkerSettings, use_gpu: bool) -> dict[str, float]:
    """What Ray reserves for one worker; memory in bytes."""
    share: dict[str, float] = {"CPU": settings.cpus_per_worker}
    if use_gpu:
        share["GPU"] = 1
    if settings.memory_gib_per_worker is not None:
        share["memory"] = settings.memory_gib_per_worker * 1024**3
    return share


def _placement_problem(cluster: Cluster, wanted: int, share: dict[str, float], placement: str) -> str | None:
    """Why the nodes, one by one, cannot hold the processes: one cannot be cut in two."""
    room = [
        min(int((node.get(name, 0.0) + 1e-9) // amount) for name, amount in share.items())
        for node in cluster.nodes
    ]
    if sum(room) < wanted:
        return f"only {sum(room)} fit on single nodes"
    if placement == "STRICT_SPREAD" and sum(slots > 0 for slots in room) < wanted:
        return f"workers.placement STRICT_SPREAD needs {wanted} nodes that hold one each"
    if placement == "STRICT_PACK" and max(room) < wanted:
        return f"workers.placement STRICT_PACK needs one node that holds all; the best holds {max(room)}"
    return None


def _remedy(names: Sequence[str]) -> str:
    ways = ["lower workers.num_workers"]
    ways += ["lower workers.cpus_per_worker"] if "CPU" in names else []
    ways += ["set workers.use_gpu: false"] if "GPU" in names else []
    ways += ["lower workers.memory_gib_per_worker"] if "memory" in names else []
    return f"{', '.join(ways)}, choose another workers.placement, or add nodes"


def in_words(resources: Mapping[str, float]) -> str:
    """Such as ``2 CPU + 1 GPU``."""
    words = [f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    if resources.get("memory"):
        words.append(f"{resources['memory'] / 1024**3:.1f} GiB")
    return " + ".join(words) or "nothing"


def describe_nodes(nodes: Sequence[dict[str, float]], total: dict[str, float]) -> str:
    """Such as ``4 CPU and 0 GPU (2 nodes of 2 CPU + 7.5 GiB)``."""
    kinds = Counter(in_words(node) for node in nodes)
    of_each = ", ".join(f"{count} node{'s' if count > 1 else ''} of {kind}" for kind, count in kinds.items())
    have = f"{total.get('CPU', 0.0):g} CPU and {total.get('GPU', 0.0):g} GPU"
    return f"{have} ({of_each})" if nodes else have
