"""Sees to it that nothing of a private Ray cluster outlives the process that made it.

A small process beside the driver. It waits for the end of its standard input, which comes however the driver
ends (kill -9 included), gives Ray a moment to end by itself, then kills what still has files of the cluster
open: Ray's agents need minutes to notice that everything around them is gone. If the driver said goodbye,
the cluster's folder in the temporary directory (logs) is removed as well.

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

_GOODBYE = b"goodbye"
_PATIENCE_SECONDS = 5.0


class Janitor:
    """The driver's side.

    Args:
        folder: temporary folder of the cluster; every process of it keeps a log file open there.
    """

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(Path(__file__)), str(folder), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self, *, goodbye: bool) -> None:
        """The cluster was shut down; with `goodbye` nobody will want its logs. Waits until all is gone."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_GOODBYE if goodbye else b"")
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=4 * _PATIENCE_SECONDS)


def processes_of(folder: str, *others: int) -> list[int]:
    """Processes with a file below `folder` open, without this one and `others`. On Linux; elsewhere none."""
    proc = Path("/proc")
    pids = [int(path.name) for path in proc.iterdir() if path.name.isdigit()] if proc.is_dir() else []
    return [pid for pid in pids if pid not in (os.getpid(), *others) and _holds(pid, folder)]


def _holds(pid: int, folder: str) -> bool:
    with contextlib.suppress(OSError):  # it ended, or is somebody else's
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(folder + "/"):
                    return True
    return False


def clean(folder: str, driver: int, *, remove: bool) -> None:
    """Wait for the processes of a cluster to end, kill those that do not, remove its folder if asked to."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (left := processes_of(folder, driver)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Entry point: wait for the end of the standard input, then clean."""
    clean(sys.argv[1], int(sys.argv[2]), remove=sys.stdin.buffer.read() == _GOODBYE)


if __name__ == "__main__":
    main()
