"""A worker that hangs ends the run within the stated time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.training.conftest import Launch


@pytest.mark.timeout(300)
def test_a_hanging_worker_ends_the_run(launch: Launch, tmp_path: Path) -> None:
    """The fault sleeps for 10 minutes; the other worker waits 5 seconds and ends; the run can go on."""
    changes = {"deepspeed__config": 1, "training__hang_timeout_seconds": 5}
    file, output = launch.file(tmp_path, **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT="rank=1,step=4,where=hang")
    deadline = time.monotonic() + 200
    while group.processes[0].is_alive():
        assert time.monotonic() < deadline, "the limit did not count"
        time.sleep(0.1)
    assert group.processes[0].exitcode != 0
    group.signal(1)
    group.wait()
    assert "imed out" in group.error()
    assert not (output / "model").exists()
    launch.finish(file, 2)
    assert "continuing from the checkpoint of step 2" in (output / "log.txt").read_text("utf-8")
