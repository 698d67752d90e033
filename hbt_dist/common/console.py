"""Show the progress of long work: a bar on a terminal, a line every 15 seconds in a log.

A bar redraws itself with carriage returns, which would fill a log with thousands of copies. A line in a log
shows the units done, the rate and the time left; the last line shows the final count.
"""

from __future__ import annotations

import functools
import glob
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0
SHORT_SECONDS = 1.0  # shorter work prints no last line
Say = Callable[[str], None]


class _Output:
    quiet = False


def hush(quiet: bool = True) -> bool:
    """Hide progress and notes in this process from now on; `hush(False)` shows them again.

    Returns:
        whether they were hidden before.
    """
    before, _Output.quiet = _Output.quiet, quiet
    return before


def note(text: str) -> None:
    """Print a line on stderr unless the process is hushed."""
    if not _Output.quiet:
        print(text, file=sys.stderr, flush=True)


@functools.cache
def note_once(text: str) -> None:
    """Print a line on stderr unless it was printed before."""
    note(text)


def counted(number: int, what: str) -> str:
    """Return a number with its noun: `1 worker`, `2 workers`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """Return a duration as text: `34 s`, `5 min 3 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def say(text: str) -> None:
    """Print a line and flush it, so that a log keeps the order of several writers."""
    print(text, flush=True)


class Progress:
    """Count units of work; replaces the part of tqdm that this package uses.

    Args:
        total: units of the whole work; None if unknown.
        desc: name of the work.
        unit: name of one unit.
        initial: units done before.
        disable: show nothing.
        first_seconds: when a log gets its first line; default: `SECONDS_BETWEEN_LINES`.
    """

    def __init__(
        self,
        total: int | None,
        desc: str,
        unit: str = "row",
        initial: int = 0,
        disable: bool = False,
        first_seconds: float | None = None,
    ) -> None:
        self.total, self.desc, self.unit = total, desc, unit
        self.disable = disable or _Output.quiet
        self.n = self._initial = self._printed = initial
        self._note = ""
        self._began = self._last = time.monotonic()
        if first_seconds is not None:
            self._last += first_seconds - SECONDS_BETWEEN_LINES
        self._bar: Any = None
        if sys.stderr.isatty() and not self.disable:
            self._bar = tqdm(
                total=total, desc=desc, unit=f" {unit}s", initial=initial, dynamic_ncols=True, mininterval=0.3
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, done: int = 1, note: str = "") -> None:
        """Count finished units and show `note` next to the count."""
        self.n += done
        self._note = note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done)
        elif time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last, self._printed = time.monotonic(), self.n
        rate = (self.n - self._initial) / max(self._last - self._began, 1e-9)
        speed = f"{rate:,.1f} per second" if rate >= 1 else f"{1 / max(rate, 1e-9):,.1f} s per {self.unit}"
        parts = [f"{self.desc}: {counted(self.n, self.unit)}", self._note, speed if rate > 0 else ""]
        if self.total is not None:
            parts[0] = f"{self.desc}: {self.n:,} of {counted(self.total, self.unit)}"
            left = self.total - self.n
            parts.append(f"{duration(left / rate)} left" if left > 0 and rate > 0 else "")
        self.say(", ".join(part for part in parts if part))

    def say(self, message: str) -> None:
        """Print a message above the bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif not self.disable:
            print(message, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar on the terminal; in a log, print the final count."""
        if self._bar is not None:
            self._bar.close()
        elif self.n != self._printed and time.monotonic() - self._began >= SHORT_SECONDS:
            self._line()


#: Defaults that silence libraries. Nothing forks after tokenizers; the hub client prints every retry.
QUIET = {
    "TOKENIZERS_PARALLELISM": "true",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "DS_LOG_LEVEL": "error",
    "LOG_LEVEL": "error",
}


def quiet_libraries() -> None:
    """Silence the libraries' notices about their inner workings. Call it before they are imported."""
    defaults = dict(QUIET)
    if not any(glob.glob(f"/dev/{device}") for device in ("nvidia[0-9]*", "kfd", "dxg")):
        # DeepSpeed warns when it detects no accelerator. For this process only: each worker sets its value.
        defaults["DS_ACCELERATOR"] = "cpu"
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    for module in ("deepspeed", "torch", "ray", "transformers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{module}(\.|$)")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a usable HOME it warns about its cache
    # matplotlib times itself: on a busy machine a small legend exceeds its limit
    warnings.filterwarnings("ignore", message=r"Creating legend with loc=.best.")
