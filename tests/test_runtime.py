"""What a process learns of its place, and what it says when it cannot find the others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from unittest.mock import MagicMock

import pytest

from hbt_dist.errors import UserError
from hbt_dist.runtime import EnvironmentRuntime, RayRuntime, Request

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
    slurm = {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }
    set_all(monkeypatch, {**slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    runtime = EnvironmentRuntime()
    runtime.close()
    assert (runtime.rank, runtime.world_size, runtime.local_rank, runtime.local_world_size) == (5, 8, 1, 4)


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

    import hbt_dist.runtime as module

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
    assert "hostfile" in refused.value.expected


def test_sigterm_asks_for_a_checkpoint_and_the_end() -> None:
    script = (
        "import os, signal\n"
        "from hbt_dist.runtime import EnvironmentRuntime\n"
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
    import torch

    monkeypatch.setenv("DS_ACCELERATOR", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(ray.train, "get_context", MagicMock)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    assert RayRuntime().device.type == "cpu"
    assert os.environ["DS_ACCELERATOR"] == "cpu"


def test_ray_has_the_notice_that_the_runtime_reads() -> None:
    """The one private place of Ray that is read: that it is where we look, and starts without a notice."""
    from ray.train.v2._internal.execution.context import TrainContext, get_train_context
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert callable(get_train_context)
    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None
