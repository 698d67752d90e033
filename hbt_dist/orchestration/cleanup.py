"""Remove what remains of a private Ray cluster when the process that started it ends.

A small process runs next to the driver. It waits for the end of its standard input, which comes however the
driver ends (also by kill -9), gives Ray a moment, then kills the processes that still have files of the
cluster open: Ray's agents need minutes to notice the end. If the driver ended well, it also removes the
cluster's folder of logs in the temporary directory.

    python -m hbt_dist.orchestration.cleanup FOLDER DRIVER_PROCESS_ID
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_REMOVE = b"remove"
_GRACE_SECONDS = 5.0


class Cleanup:
    """Start the cleaning process from the driver.

    Args:
        folder: temporary folder of the cluster; each of its processes keeps a log file open in it.
    """

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__)), str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def finish(self, *, remove: bool) -> None:
        """Wait until all processes of the cluster are gone; `remove` also removes its logs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.communicate(_REMOVE if remove else b"", timeout=4 * _GRACE_SECONDS)


def processes_of(folder: str, *excluded: int) -> list[int]:
    """Return the processes with an open file below `folder`, without this process and `excluded`.

    Works on Linux; elsewhere the list is empty.
    """
    proc = Path("/proc")
    pids = [int(path.name) for path in proc.iterdir() if path.name.isdigit()] if proc.is_dir() else []
    return [pid for pid in pids if pid not in (os.getpid(), *excluded) and _has_open(pid, folder)]


def _has_open(pid: int, folder: str) -> bool:
    with contextlib.suppress(OSError):  # the process has ended, or belongs to a different user
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(folder + "/"):
                    return True
    return False


def clean(folder: str, driver: int, *, remove: bool) -> None:
    """Wait for the processes of a cluster, kill those that do not end, and remove its folder on request."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := processes_of(folder, driver)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    clean(sys.argv[1], int(sys.argv[2]), remove=sys.stdin.buffer.read() == _REMOVE)
