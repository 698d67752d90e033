"""Handle Ctrl-C and SIGTERM: the first requests an orderly end while work can be saved, the second ends.

Where work can be saved (`stop_requests`), the first signal requests a stop, and the command reports what is
saved. Elsewhere the signal raises: KeyboardInterrupt, or TerminationError.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from hbt_dist.common.console import say

#: A launcher such as torchrun repeats the signal that the terminal has already sent to all processes.
SECONDS_OF_ONE_INTERRUPT = 1.0
_received: list[float] = []


class TerminationError(KeyboardInterrupt):
    """SIGTERM ends this process; handled wherever Ctrl-C is."""


def raise_on_sigterm() -> None:
    """Raise `TerminationError` in this process on SIGTERM, as Ctrl-C raises KeyboardInterrupt."""
    process = os.getpid()

    def handle(*_: object) -> None:
        if os.getpid() != process:  # a forked child ends as without a handler
            os._exit(128 + signal.SIGTERM)
        raise TerminationError

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT after a block in which a library sets its own."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    handlers = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # not set from Python
                signal.signal(number, handler)


@contextmanager
def stop_requests(request: Callable[[], None]) -> Iterator[None]:
    """Call `request` on SIGTERM and on the first Ctrl-C while the block runs; a second Ctrl-C raises."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread receives signals
        return

    def request_stop() -> bool:
        request()
        return True

    with handlers_kept():
        signal.signal(signal.SIGTERM, lambda *_: request())
        with FirstInterrupt(request_stop):
            yield


def report_stop(text: str) -> None:
    """Report how a command has stopped on request.

    Raises:
        KeyboardInterrupt: Ctrl-C has requested it; carries the text.
    """
    if interrupted():
        raise KeyboardInterrupt(text)
    say(text)


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
