"""Ctrl-C while something can be saved: the first one asks for an orderly end, the next one ends at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

#: A launcher such as torchrun hands on the signal that the terminal has sent to all its processes already.
SECONDS_OF_ONE_INTERRUPT = 1.0
_heard: list[float] = []


def interrupted() -> bool:
    """Whether Ctrl-C has asked this process for an orderly end."""
    return bool(_heard)


class FirstInterrupt:
    """While it is open, the first SIGINT calls `ask` and says so; the next one is a KeyboardInterrupt.

    It hears nothing outside the main thread, nor where SIGINT is ignored (a shell's background job).

    Args:
        ask: asks for the end; false if there is nothing to save yet, and the first one is to end at once.
        aloud: say what will happen; one of several processes is enough.
    """

    def __init__(self, ask: Callable[[], bool], *, aloud: bool = True) -> None:
        self._ask, self._aloud = ask, aloud
        _heard.clear()
        self._before: Any = None
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and before != signal.SIG_IGN:
            self._before = signal.signal(signal.SIGINT, self._on_sigint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the signal handler back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _on_sigint(self, *_: object) -> None:
        now = time.monotonic()
        if _heard and now - _heard[0] < SECONDS_OF_ONE_INTERRUPT:
            return
        if _heard or not self._ask():
            raise KeyboardInterrupt
        _heard.append(now)
        if self._aloud:  # written past Python's buffers: a handler may interrupt a print
            line = "interrupted: saving after the running step; Ctrl-C again ends at once\n"
            os.write(2, (f"\n{line}" if sys.stderr.isatty() else line).encode())
