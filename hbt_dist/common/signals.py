"""Handle Ctrl-C while work can be saved: the first requests an orderly end, the second ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

#: A launcher such as torchrun repeats the signal that the terminal has already sent to all processes.
SECONDS_OF_ONE_INTERRUPT = 1.0
_received: list[float] = []


def interrupted() -> bool:
    """Return whether Ctrl-C has requested an orderly end of this process."""
    return bool(_received)


class FirstInterrupt:
    """Call `request` on the first SIGINT and raise KeyboardInterrupt on the next, as a context manager.

    It handles nothing outside the main thread, nor where SIGINT is ignored (a shell's background job).

    Args:
        request: requests the end; returns False if there is nothing to save, so that the first SIGINT ends.
        announce: print what will happen; one process of a group is enough.
    """

    def __init__(self, request: Callable[[], bool], *, announce: bool = True) -> None:
        self._request, self._announce = request, announce
        _received.clear()
        self._before: Any = None
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._on_sigint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Restore the previous signal handler."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_sigint(self, *_: object) -> None:
        now = time.monotonic()
        if _received and now - _received[0] < SECONDS_OF_ONE_INTERRUPT:
            return
        if _received or not self._request():
            raise KeyboardInterrupt
        _received.append(now)
        if self._announce:  # written past Python's buffers: a handler may interrupt a print
            line = "interrupted: saving after the running step; Ctrl-C again ends at once\n"
            os.write(2, (f"\n{line}" if sys.stderr.isatty() else line).encode())
