"""What a process learns of its place, and what it says when it cannot find the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import MagicMock

import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import _runtime_environment
from hbt_dist.orchestration.ray_runtime import RayRuntime
from hbt_dist.training.runtime import (
    EnvironmentRuntime,
    Request,
    allocator_defaults,
    find_device,
    refuse_shared_gpus,
)

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*NAMES, *(name for name in os.environ if name.startswith("SLURM_"))]:
        monkeypatch.setenv(name, "")  # so that what the runtime sets is undone as well
        monkeypatch.delenv(name)


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_plain_process_is_alone() -> None:
    with EnvironmentRuntime() as runtime:
        assert (runtime.rank, runtime.world_size, runtime.local_rank) == (0, 1, 0)


def test_slurm_tasks_become_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}
    set_all(monkeypatch, {**slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    runtime = EnvironmentRuntime()
    runtime.close()
    assert (runtime.rank, runtime.world_size, runtime.local_rank) == (5, 8, 1)


def test_a_slurm_job_without_srun_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a batch script, or a shell of salloc."""
    set_all(monkeypatch, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"})
    with pytest.raises(UserError) as refused:
        EnvironmentRuntime()
    assert str(refused.value).startswith(
        "SLURM_NTASKS=8: expected 8 processes that srun has started, got no MASTER_ADDR, MASTER_PORT\n"
    )
    assert "srun hbt-dist train" in refused.value.remedy
    assert "RANK" not in os.environ
    monkeypatch.delenv("SLURM_NTASKS")  # the second remedy
    with EnvironmentRuntime() as runtime:
        assert runtime.world_size == 1


def test_an_incomplete_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, {"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="LOCAL_RANK, MASTER_ADDR, MASTER_PORT"):
        EnvironmentRuntime()


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        set_all(monkeypatch, {**place, "MASTER_PORT": port})
        runtime = EnvironmentRuntime()
        try:
            with pytest.raises(UserError, match=rf"MASTER_PORT {port}: the port is taken"):
                runtime.__enter__()
        finally:
            runtime.close()


def test_processes_that_do_not_meet_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from datetime import timedelta

    import hbt_dist.training.runtime as module

    monkeypatch.setattr(module, "PROCESS_GROUP_TIMEOUT", timedelta(seconds=2))
    place = {
        "RANK": "1",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }
    set_all(monkeypatch, place)
    runtime = EnvironmentRuntime()
    try:
        with pytest.raises(UserError, match="did not meet") as refused:
            runtime.__enter__()
    finally:
        runtime.close()
    assert "hostfile" in refused.value.remedy


@pytest.mark.slow
def test_sigterm_asks_for_a_checkpoint_and_the_end() -> None:
    script = (
        "import os, signal\n"
        "from hbt_dist.training.runtime import EnvironmentRuntime\n"
        "with EnvironmentRuntime() as runtime:\n"
        "    before = runtime.request()\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(before.name, runtime.request().name)\n"
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["NONE", "STOP", "True"]


def test_the_stronger_request_is_the_larger() -> None:
    assert max(Request.NONE, Request.SAVE, Request.STOP) is Request.STOP
    assert Request(max(int(Request.SAVE), int(Request.NONE))) is Request.SAVE


def test_a_ray_worker_takes_no_gpu_that_it_has_not_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray hides no GPU from it: torch sees all eight of the node, Ray says CPU."""
    import ray.train.torch

    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(ray.train, "get_context", MagicMock)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    assert RayRuntime().device.type == "cpu"
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_a_worker_on_a_gpu_says_so_whatever_its_driver_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver runs on a head without a GPU; what it told its own DeepSpeed must not reach the workers."""
    import ray.train.torch

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setattr(ray.train, "get_context", MagicMock)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cuda:1"))
    assert RayRuntime().device == torch.device("cuda:1")
    assert os.environ["DS_ACCELERATOR"] == "cuda"
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert "DS_ACCELERATOR" not in _runtime_environment()["env_vars"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    assert find_device(3) == torch.device("cuda:3")
    assert os.environ["DS_ACCELERATOR"] == "cuda"
    assert find_device(3, use_gpu=False) == torch.device("cpu")
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_memory_of_a_gpu_grows_in_segments_unless_the_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.setenv(name, "")  # so that what the process sets is undone as well
        monkeypatch.delenv(name)
    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    read: list[str | None] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: read.extend(map(os.environ.get, names)))
    find_device(0, use_gpu=False)
    assert not any(name in os.environ for name in names)
    find_device(0)
    assert read == ["expandable_segments:True"] * 2, "before torch starts the device"
    monkeypatch.delenv(names[0])
    monkeypatch.setenv(names[1], "max_split_size_mb:64")
    assert allocator_defaults() == {}
    find_device(0)
    assert read[2:] == [None, "max_split_size_mb:64"]


RANK = """
import sys, time
from types import SimpleNamespace
import torch
import torch.distributed as dist
from hbt_dist.common.errors import OneRankError, UserError
from hbt_dist.training import runtime as module
from hbt_dist.training.runtime import EnvironmentRuntime

rank = int(sys.argv[1])
if sys.argv[2] == "gpus":  # NCCL, which this machine has not, is never reached
    module.find_device = lambda *_, **__: torch.device("cuda", 0)
    torch.cuda.get_device_properties = lambda _: SimpleNamespace(name="GPU", uuid=rank // 2)
leave, wait = dist.destroy_process_group, sys.argv[2] != "gpus"  # as NCCL waits for the peers
dist.destroy_process_group = lambda group=None: (time.sleep(100 if rank == 1 and wait else 0), leave(group))
with EnvironmentRuntime() as runtime:
    if rank == 1:
        raise LookupError("no such row") if sys.argv[2] == "error" else OneRankError("rank 1", "has no row")
    dist.barrier()
"""


def start_ranks(count: int, what: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), what],
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["error", "refusal"])
def test_a_rank_that_fails_alone_does_not_wait_for_its_peers(what: str) -> None:
    """NCCL lets a group go only when the peers' collectives have ended, and they wait for this rank."""
    ranks = start_ranks(2, what)
    try:
        _, error = ranks[1].communicate(timeout=80)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert "no such row" in error or "has no row" in error


def test_gpus_are_compared_before_a_process_group_exists() -> None:
    """Rank 0 keeps the store until all ranks have read why they end."""
    store = torch.distributed.HashStore()  # type: ignore[attr-defined]

    def compare(gpus: list[str]) -> list[str]:
        def ask(rank: int) -> str:
            try:
                own = torch.distributed.PrefixStore(" ".join(gpus), store)  # type: ignore[attr-defined]
                refuse_shared_gpus(("host-a", gpus[rank]), rank, len(gpus), own)
            except UserError as error:
                return error.problem
            return ""

        with ThreadPoolExecutor(len(gpus)) as threads:
            return list(threads.map(ask, range(len(gpus))))

    assert compare(["A", "B", "C"]) == [""] * 3
    assert compare(["A", "B", "C", "B"]) == ["ranks 1 and 3 were given the same GPU B of host-a"] * 4


@pytest.mark.slow
def test_two_ranks_on_one_gpu_are_refused_by_all() -> None:
    for rank in start_ranks(3, "gpus"):
        _, text = rank.communicate(timeout=100)
        assert f"ranks 0 and 1 were given the same GPU GPU 0 of {socket.gethostname()}" in text
        assert "as many processes on a host as it has GPUs (2 seen, 3 processes)" in text


def test_ray_has_the_notice_that_the_runtime_reads() -> None:
    """The one private place of Ray that is read: that it is where we look, and starts without a notice."""
    from ray.train.v2._internal.execution.context import TrainContext, get_train_context
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert callable(get_train_context)
    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None
