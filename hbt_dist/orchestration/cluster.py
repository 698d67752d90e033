"""Connect to a Ray cluster, or start a private one on this machine, and check its resources.

When the driver runs from a checkout, a cluster of several machines receives the package from the driver
(1 MB, once), so that all nodes train with the same code. Modules of user functions travel the same way unless
they are installed.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hbt_dist
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.common.processors import DRIVER_THREADS, omp_threads
from hbt_dist.config.user_functions import user_modules
from hbt_dist.orchestration.private_cluster import init_ray, private_cluster
from hbt_dist.orchestration.settings import WorkerSettings

_THIS_MACHINE = "this machine"


@dataclass(frozen=True)
class Cluster:
    """A connected Ray cluster."""

    address: str
    private: bool
    num_cpus: float
    num_gpus: float
    nodes: tuple[dict[str, float], ...] = ()  # resources of each living node
    growth: dict[str, float] | None = None  # largest resources with an autoscaler; None: fixed size
    dashboard: str | None = None  # address of the dashboard of a private cluster

    @property
    def largest(self) -> dict[str, float]:
        """Return the resources of the cluster at its largest size."""
        total = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        growth = {name: max(total.get(name, 0.0), amount) for name, amount in (self.growth or {}).items()}
        return total | growth


@contextmanager
def connect(settings: WorkerSettings, *, extra_cpus: float = 0, dashboard: bool = False) -> Iterator[Cluster]:
    """Connect to the cluster that the settings name; a private cluster ends with the block.

    Args:
        settings: address, and the CPUs that a private cluster must offer at least.
        extra_cpus: CPUs needed in addition to the workers'.
        dashboard: start a private cluster with its dashboard; trials that stop early need it.

    Raises:
        UserError: the named cluster does not answer.
    """
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(settings.start_timeout_seconds)
    for name, value in _RAY_DEFAULTS.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield _describe(ray.get_runtime_context().gcs_address, private=False)
        return
    address = find_cluster(settings)
    if address is None:
        num_cpus = settings.num_workers * settings.cpus_per_worker + extra_cpus
        connection = private_cluster(num_cpus, _inherited_variables(), dashboard=dashboard)
    else:
        connection = _named_cluster(address)
    with connection as page:
        yield replace(
            _describe(ray.get_runtime_context().gcs_address, private=address is None), dashboard=page
        )


def will_be_private(settings: WorkerSettings) -> bool:
    """Return whether `connect` will start a private cluster."""
    import ray

    return not ray.is_initialized() and find_cluster(settings) is None


def planned_cluster(settings: WorkerSettings) -> Cluster:
    """Return what a private cluster will offer: the CPUs that the workers need, the GPUs of this machine."""
    import torch

    num_cpus = settings.num_workers * settings.cpus_per_worker
    num_gpus = float(torch.cuda.device_count())
    node = {"CPU": num_cpus, "GPU": num_gpus, "memory": math.inf}
    return Cluster(_THIS_MACHINE, True, num_cpus, num_gpus, (node,))


@contextmanager
def _named_cluster(address: str) -> Iterator[None]:
    """Connect to a running cluster while the block runs."""
    import ray

    _check_answers(address)
    runtime_environment = _runtime_environment()
    try:
        init_ray(address=address, log_to_driver=True, runtime_env=runtime_environment)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"Ray cluster {address!r}",
            f"cannot be used: {' '.join(str(error).split())[:300]}",
            "check workers.address and RAY_ADDRESS, that the head runs ('ray status' on it),\n"
            "and that Ray and Python have the same versions on both sides",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


#: Defaults of Ray's environment. The print patch would print every line of a worker twice.
_RAY_DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def _describe(address: str, *, private: bool) -> Cluster:
    import ray
    from ray._private.state import state

    nodes = tuple(dict(node["Resources"]) for node in ray.nodes() if node["Alive"])
    limits: dict[str, Any] | None = None if private else state.get_max_resources_from_cluster_config()
    growth = {name: float(amount) for name, amount in limits.items()} if limits else None
    total = ray.cluster_resources()
    return Cluster(address, private, total.get("CPU", 0.0), total.get("GPU", 0.0), nodes, growth)


def find_cluster(settings: WorkerSettings) -> str | None:
    """Return the address of the cluster to use; None for a private cluster on this machine."""
    address = settings.address or os.environ.get("RAY_ADDRESS") or None
    if address == "local" or (address is None and not _runs_on_this_machine()):
        return None
    return address or "auto"


def _runs_on_this_machine() -> bool:
    """Return whether `ray start` runs on this machine."""
    from ray._private.services import find_bootstrap_address

    address = find_bootstrap_address(None)
    return address is not None and _connection_error(address, seconds=2) is None


def _check_answers(address: str) -> None:
    """Reject an address without a listener: Ray would try for minutes."""
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
    if problem := _connection_error(address, seconds=10):
        raise UserError(
            f"Ray cluster {address!r}",
            f"does not answer: {problem}",
            "check workers.address and RAY_ADDRESS, Ray on the head ('ray status'), and the firewall",
        )


def _connection_error(address: str, seconds: float) -> str | None:
    """Return why a TCP connection to host:port fails, or None."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=seconds):
            return None
    except OSError as error:
        return error.strerror or str(error)


#: Variables of the driver that workers inherit: names, and prefixes of names.
#: Not DS_ACCELERATOR: the driver may run on a head without a GPU.
_INHERITED = ("DS_LOG_LEVEL", "LOG_LEVEL", "NVIDIA_TF32_OVERRIDE", "PYTHONWARNINGS", "HBT_DIST_FAULT")
_INHERITED_PREFIXES = (
    *("NCCL_", "GLOO_", "FI_", "UCX_", "HF_", "TRANSFORMERS_"),
    *("TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "CUDA_", "CUBLAS_", "TRITON_"),
)
#: Never inherited: devices, folders and services of the driver's machine.
_OF_THE_MACHINE = ("CUDA_VISIBLE_DEVICES", "CUDA_HOME", "CUDA_PATH", "CUDA_MPS_")
#: Never inherited: Ray's dashboard shows the variables to all its users.
_SECRET = ("_TOKEN", "_SECRET", "_PASSWORD", "_KEY")


def _inherited_variables() -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED
        or (
            (name.startswith(_INHERITED_PREFIXES) and not name.startswith(_OF_THE_MACHINE))
            and not name.endswith(_SECRET)
        )
    }
    return {**inherited, DRIVER_THREADS: str(omp_threads(os.environ) or "")}


def _runtime_environment() -> dict[str, Any]:
    """Return what workers on a named cluster receive from the driver: variables, and a checkout's package.

    In a Ray job the job's runtime environment is already active. Ray refuses to merge two environments that
    set the same key, so the keys of the job are left out.
    """
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    job_variables = job.get("env_vars") or {}
    variables = {name: value for name, value in _inherited_variables().items() if name not in job_variables}
    package = Path(hbt_dist.__file__).resolve().parent
    checkout = (package.parent / "pyproject.toml").is_file()
    modules = [*([str(package)] if checkout else []), *user_modules()]
    if modules and "py_modules" not in job and "working_dir" not in job:
        return {"env_vars": variables, "py_modules": modules, "excludes": ["__pycache__/"]}
    return {"env_vars": variables}


def check_resources(cluster: Cluster, settings: WorkerSettings) -> bool:
    """Reject workers that the cluster cannot hold; return whether workers get a GPU.

    A cluster with an autoscaler counts at its largest size. `use_gpu: auto` is also rejected if the cluster
    has fewer GPUs than workers: a node may be late, and a CPU is not a substitute.

    Raises:
        UserError: the cluster is too small.
    """
    use_gpu = has_gpus(cluster) if settings.use_gpu == "auto" else settings.use_gpu
    share = worker_resources(settings, use_gpu)
    check_shares(cluster, settings.fewest, share, "workers", _remedy, settings.placement)
    return use_gpu


def has_gpus(cluster: Cluster) -> bool:
    """Return whether the cluster has a GPU at its largest size."""
    return cluster.largest["GPU"] > 0


def check_shares(
    cluster: Cluster,
    number: int,
    share: Mapping[str, float],
    noun: str,
    remedy: Callable[[Sequence[str]], str],
    placement: str = "PACK",
) -> None:
    """Reject `number` processes that each reserve `share` if the cluster cannot hold them.

    Args:
        noun: name of the processes, for messages.
        remedy: resources that are short -> the remedy.
        placement: of `WorkerSettings`.

    Raises:
        UserError: the cluster is too small.
    """
    total = cluster.largest
    requested = f"{number} {noun} x ({in_words(share)}) are requested"
    where = _THIS_MACHINE if cluster.address == _THIS_MACHINE else f"the cluster at {cluster.address}"
    available = f"{where} has {describe_nodes(cluster.nodes, total)}"
    short = [name for name in ("CPU", "GPU") if share.get(name, 0.0) * number > total[name] + 1e-9]
    if short:
        raise UserError(noun, f"{requested}, {available}", remedy(short))
    problem = None if cluster.growth is not None else _placement_problem(cluster, number, share, placement)
    if problem:
        raise UserError(noun, f"{requested}; {problem}; {available}", remedy(list(share)))


def hidden_gpus(gpus: float | bool) -> dict[str, Any]:
    """Return the runtime environment of a process that reserves `gpus` GPUs: without one it must see none.

    Ray hides no GPU from such a process, which could use the GPU of a different one.
    """
    return {} if gpus else {"env_vars": {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}}


def worker_resources(settings: WorkerSettings, use_gpu: bool) -> dict[str, float]:
    """Return what Ray reserves for one worker; memory in bytes."""
    share = {"CPU": settings.cpus_per_worker, "GPU": float(use_gpu)}
    if settings.memory_gib_per_worker is not None:
        share["memory"] = settings.memory_gib_per_worker * 1024**3
    return {name: amount for name, amount in share.items() if amount}


def _placement_problem(
    cluster: Cluster, number: int, share: Mapping[str, float], placement: str
) -> str | None:
    """Return why single nodes cannot hold the processes, or None: a process cannot span two nodes."""
    slots = [
        min(int((node.get(name, 0.0) + 1e-9) // amount) for name, amount in share.items())
        for node in cluster.nodes
    ]
    if sum(slots) < number:
        return f"only {sum(slots)} fit on single nodes"
    if placement == "STRICT_SPREAD" and sum(count > 0 for count in slots) < number:
        return f"workers.placement STRICT_SPREAD needs {number} nodes that hold one worker each"
    if placement == "STRICT_PACK" and max(slots) < number:
        return f"workers.placement STRICT_PACK needs one node that holds all; the best holds {max(slots)}"
    return None


def _remedy(names: Sequence[str]) -> str:
    ways = {
        "CPU": "lower workers.cpus_per_worker",
        "GPU": "set workers.use_gpu: false",
        "memory": "lower workers.memory_gib_per_worker",
    }
    chosen = ["lower workers.num_workers", *(way for name, way in ways.items() if name in names)]
    return f"{', '.join(chosen)}, choose another workers.placement, or add nodes"


def in_words(resources: Mapping[str, float]) -> str:
    """Return resources as text, such as ``2 CPU + 1 GPU``."""
    words = [f"{resources.get(name, 0.0):g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    if 0 < resources.get("memory", 0.0) < math.inf:
        words.append(f"{resources['memory'] / 1024**3:.1f} GiB")
    return " + ".join(words) or "nothing"


def describe_nodes(nodes: Sequence[Mapping[str, float]], total: Mapping[str, float]) -> str:
    """Return nodes as text, such as ``4 CPU and 0 GPU (2 nodes of 2 CPU + 7.5 GiB)``."""
    kinds = Counter(in_words(node) for node in nodes)
    groups = ", ".join(f"{counted(count, 'node')} of {kind}" for kind, count in kinds.items())
    text = f"{total.get('CPU', 0.0):g} CPU and {total.get('GPU', 0.0):g} GPU"
    return f"{text} ({groups})" if nodes else text
