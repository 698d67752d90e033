"""A worker on a node that an autoscaler added: it has the driver's folder and packages, or it refuses."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hbt_dist.config import RunFile
from hbt_dist.errors import UserError
from hbt_dist.orchestration import train
from hbt_dist.orchestration.arrival import check_arrival, marked
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import tiny_run


def test_a_node_like_the_drivers_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "ray" / "driver-1.json"
    with marked(file) as driver:
        check_arrival(str(tmp_path), driver, seconds=0)
    assert not file.exists()


def test_other_packages_are_refused(tmp_path: Path) -> None:
    with marked(tmp_path / "driver-1.json") as driver:
        driver["versions"]["torch"] = "1.0"
        with pytest.raises(UserError, match=r"has other packages .*: torch .*, here 1\.0"):
            check_arrival(str(tmp_path), driver, seconds=0)


def test_a_worker_without_the_drivers_folder_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has the same name on another disk; the refusal comes home although its verdict does not."""
    monkeypatch.setattr(train, "train_loop", lambda *_, **__: pytest.fail("it trains"))
    monkeypatch.setattr(train, "RayRuntime", lambda *_: None)
    run = tiny_run(tmp_path / "there", tmp_path / "cache")
    with marked(tmp_path / "here" / "driver-1.json") as driver:
        config = {"run": run, "start": "1", "quiet": True, "stop_file": "", "driver": driver}
        config["driver"] = {**driver, "mark": str(tmp_path / "there" / "driver-1.json")}
        monkeypatch.setattr(train, "check_arrival", lambda *given: check_arrival(*given, seconds=0))
        with pytest.raises(UserError, match="is another folder on") as refused:
            train._worker(config)
    assert (tmp_path / "there" / "ray" / "refused-1.json").is_file()

    from ray.train.v2._internal.util import construct_user_exception_with_traceback

    failures = {1: construct_user_exception_with_traceback(refused.value)}
    explained: Any = SimpleNamespace(worker_failures=failures)
    assert train._explain(explained, RunFolder(tmp_path / "here"), "1") is refused.value


def test_workers_that_find_no_room_are_told_from_those_that_fail(tmp_path: Path) -> None:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    late: Any = SimpleNamespace(controller_failure=WorkerGroupStartupTimeoutError(2))
    assert isinstance(train._explain(late, RunFolder(tmp_path), "1"), train.NoRoomError)
    dead: Any = SimpleNamespace(worker_failures={0: RuntimeError("dead")})
    assert not isinstance(train._explain(dead, RunFolder(tmp_path), "1"), train.NoRoomError)


def test_workers_that_end_well_and_leave_nothing_are_an_error(tmp_path: Path) -> None:
    folder, stop_file = RunFolder(tmp_path), tmp_path / "stop"
    run = RunFile.model_validate(tiny_run(tmp_path, tmp_path / "cache"))
    with pytest.raises(UserError, match="the newest checkpoint here is of step 0 of 6"):
        train._has_finished(run, folder, stop_file, seconds=0)
    stop_file.touch()
    assert train._has_finished(run, folder, stop_file, seconds=0) is False
    folder.checkpoint(6).mkdir(parents=True)
    assert train._has_finished(run, folder, stop_file, seconds=0) is True
