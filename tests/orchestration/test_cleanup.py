"""Nothing of a private Ray cluster outlives its driver, not even one that was killed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from hbt_dist.orchestration.cleanup import processes_of

_DRIVER = """
import sys, time
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.settings import WorkerSettings
with connect(WorkerSettings(address="local")) as cluster:
    import ray
    print(ray._private.worker.global_worker.node.get_temp_dir_path(), flush=True)
    time.sleep(float(sys.argv[1]))
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_nothing_is_left(killed: bool) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", _DRIVER, "600" if killed else "0"], stdout=subprocess.PIPE, text=True
    )
    assert driver.stdout is not None
    folder = driver.stdout.readline().strip()
    assert folder.startswith(tempfile.gettempdir())
    if killed:
        assert len(processes_of(folder)) >= 3
        driver.kill()
        driver.wait()
        deadline = time.monotonic() + 30
        while processes_of(folder) and time.monotonic() < deadline:
            time.sleep(0.5)
        assert (Path(folder) / "session_latest").exists()  # the logs of an accident stay
    else:
        assert driver.wait(timeout=60) == 0
        assert not Path(folder).exists()
    assert processes_of(folder) == []
