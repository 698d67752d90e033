"""A worker on a node that an autoscaler added: it has the driver's folder and packages, or it refuses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.orchestration import ray_runtime, train
from hbt_dist.orchestration.nodes import check_node, driver_marker
from hbt_dist.run_file import RunFile
from hbt_dist.training.ranks import full_memory_explained
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.ray_head import Head, running_head
from tests.helpers.runs import PYTHON, run_command, tiny_run, write_run

_PROGRAM = """
import sys, time

import ray

from hbt_dist.run_file import load_run
from hbt_dist.common.errors import UserError
from hbt_dist.orchestration import train

train.check_nodes = lambda run: None  # as if the node had come after it
run = load_run(sys.argv[1])
ray.init(address=run.workers.address, log_to_driver=False)
while ray.cluster_resources().get("CPU", 0) < 1:
    time.sleep(0.5)
try:
    train.train_on_ray(run, quiet=True)
except UserError as error:
    print("refused:", error)
"""


def test_a_node_like_the_drivers_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ray" / "driver-1.json"
    with driver_marker(file) as driver:
        check_node(str(tmp_path), driver, seconds=0)
    assert not file.exists()


def test_other_packages_are_refused(tmp_path: Path) -> None:
    with driver_marker(tmp_path / "driver-1.json") as driver:
        driver["versions"]["torch"] = "1.0"
        with pytest.raises(UserError, match=r"has other packages .*: torch .*, here 1\.0"):
            check_node(str(tmp_path), driver, seconds=0)


def test_a_worker_without_the_drivers_folder_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has the same name on another disk; the refusal comes home although its verdict does not."""
    monkeypatch.setattr(ray_runtime, "train", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr(ray_runtime, "RayRuntime", lambda *_: None)
    run = tiny_run(tmp_path / "there", tmp_path / "cache")
    with driver_marker(tmp_path / "here" / "driver-1.json") as driver:
        config = {"run": run, "start": "1", "quiet": True, "stop_file": "", "driver": driver}
        config["driver"] = {**driver, "marker": str(tmp_path / "there" / "driver-1.json")}
        monkeypatch.setattr(ray_runtime, "check_node", lambda *given: check_node(*given, seconds=0))
        with pytest.raises(UserError, match="is another folder on") as refused:
            ray_runtime.train_worker(config)
    assert (tmp_path / "there" / "ray" / "refused-1.json").is_file()

    from ray.train.v2._internal.util import construct_user_exception_with_traceback

    failures = {1: construct_user_exception_with_traceback(refused.value)}
    explained: Any = SimpleNamespace(worker_failures=failures)
    assert train._explain(explained, RunFolder(tmp_path / "here"), "1") is refused.value


def test_a_full_gpu_is_not_met_again_by_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """cuBLAS has its own words for it; Ray starts the workers again after every error of one."""
    starts: list[int] = []

    def fill_memory(*_: Any, **__: Any) -> None:
        starts.append(1)
        with full_memory_explained(World.alone(), 64):
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(ray_runtime, "train", fill_memory)
    monkeypatch.setattr(ray_runtime, "RayRuntime", lambda *_: None)
    monkeypatch.setattr(ray_runtime, "check_node", lambda *_: None)
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    config = {"run": run, "start": "1", "quiet": True, "stop_file": ""}
    absent = str(tmp_path / "absent")  # the driver's files: it has ended
    config |= {"ready": absent, "driver": {"marker": absent}}
    for _ in range(2):
        with pytest.raises(UserError, match=r"memory of cpu is full: CUDA error: CUBLAS_STATUS_ALLOC_FAILED"):
            ray_runtime.train_worker(config)
    assert starts == [1], "the second start reads why the first has ended"


def test_workers_that_find_no_room_are_told_from_those_that_fail(tmp_path: Path) -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    late: Any = SimpleNamespace(controller_failure=WorkerGroupStartupTimeoutError(2))
    assert isinstance(train._explain(late, RunFolder(tmp_path), "1"), train.WorkersNotStartedError)
    dead: Any = SimpleNamespace(worker_failures={0: RuntimeError("dead")})
    assert not isinstance(train._explain(dead, RunFolder(tmp_path), "1"), train.WorkersNotStartedError)


def test_workers_that_end_well_and_leave_nothing_are_an_error(tmp_path: Path) -> None:
    folder, stop_file = RunFolder(tmp_path), tmp_path / "stop"
    run = RunFile.model_validate(tiny_run(tmp_path, tmp_path / "cache"))
    with pytest.raises(UserError, match="the newest checkpoint here is of step 0 of 6"):
        train._has_finished(run, folder, stop_file, seconds=0)
    stop_file.touch()
    assert train._has_finished(run, folder, stop_file, seconds=0) is False
    folder.checkpoint(6).mkdir(parents=True)
    assert train._has_finished(run, folder, stop_file, seconds=0) is True


@pytest.fixture
def head() -> Iterator[Head]:
    with running_head(num_cpus=0) as head:
        yield head


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(os.geteuid() != 0, reason="a folder of another content needs root")
def test_a_node_of_an_autoscaler_with_a_disk_of_its_own(head: Head, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    head.add_node(1, own_folder=disk)
    workers = {"num_workers": 1, "address": f"127.0.0.1:{head.port}", "max_failures": 1}
    run = tiny_run(disk / "out", tmp_path / "cache", workers=workers, training__steps=1)
    file = write_run(tmp_path / "run.yaml", run)
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, "utf-8")
    code, out, err = run_command([PYTHON, program, file], tmp_path, 600)
    assert code == 0, err[-3000:]
    assert f"refused: output_dir {disk / 'out'}: is another folder on" in out, out + err[-3000:]
    assert not list((disk / "out").glob("ray/driver-*")), "the mark goes with the run"
