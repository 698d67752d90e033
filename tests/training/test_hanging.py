"""A worker that hangs, or whose GPU is full, ends the run within the stated time and says why."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.helpers.faults import fault
from tests.training.conftest import Launch


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hanging_worker_ends_the_run(launch: Launch, tmp_path: Path) -> None:
    """The fault sleeps for 10 minutes; the other worker waits 5 seconds and ends; the run can go on."""
    changes = {"deepspeed__config": 1, "training__hang_timeout_seconds": 5}
    file, output = launch.file(tmp_path, **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=1,step=4,where=hang"))
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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_full_gpu_is_explained_and_keeps_nobody_waiting(launch: Launch, tmp_path: Path) -> None:
    """One rank alone meets it: the other waits in a collective, without a limit that would end it soon."""
    file, output = launch.file(tmp_path, deepspeed__config=1)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=1,step=4,where=out_of_memory"))
    group.processes[1].join(100)
    assert group.processes[1].exitcode != 0
    group.signal(0)
    group.wait()
    said = group.error(1)
    assert "rank 1 on " in said
    assert "the memory of cpu is full: CUDA out of memory. Tried to allocate 2.00 GiB" in said
    assert "lower step.chunk_rows (by device now; auto: the largest that fits)" in said
    launch.finish(file, 2)
    assert "continuing from the checkpoint of step 2" in (output / "log.txt").read_text("utf-8")
