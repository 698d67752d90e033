"""Progress of long work: a bar on a terminal, a line now and then in a log.

A bar redraws itself with carriage returns, which fills the log of a job with thousands of copies; there one
line every 15 seconds says how far it is, how fast, and how long it will take, a last one how far it came.
"""

from __future__ import annotations

import glob
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0
SHORT_SECONDS = 1.0  # what takes less gets no last line
Say = Callable[[str], None]


class _Loudness:
    quiet = False


def hush(quiet: bool = True) -> None:
    """Show no progress and no notes in this process from now on; or show them again."""
    _Loudness.quiet = quiet


def note(text: str) -> None:
    """Tell on stderr what is going on, where somebody wants to hear it."""
    if not _Loudness.quiet:
        print(text, file=sys.stderr, flush=True)


def counted(number: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def duration(seconds: float) -> str:
    """`34 s`, `5 min 3 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def say(text: str) -> None:
    """Print a line at once, so that a log holds the lines of several writers in their order."""
    print(text, flush=True)


class Progress:
    """Counts units of work; a drop-in for the part of tqdm that is used here.

    Args:
        total: units of the whole work; None if that is not known.
        desc: what is done.
        unit: name of one unit.
        initial: units that were done before.
        disable: show nothing.
    """

    def __init__(
        self, total: int | None, desc: str, unit: str = "row", initial: int = 0, disable: bool = False
    ) -> None:
        self.total, self.desc, self.unit = total, desc, unit
        self.disable = disable or _Loudness.quiet
        self.n = self._initial = self._said = initial
        self._note = ""
        self._began = self._last = time.monotonic()
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
        """Count finished units; `note` is shown beside them."""
        self.n += done
        if self.disable:
            return
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done)
            return
        self._note = note
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._line(now)

    def _line(self, now: float) -> None:
        self._said = self.n
        rate = (self.n - self._initial) / max(now - self._began, 1e-9)
        parts = [f"{self.desc}: {self.n:,} {self.unit}s", self._note, f"{rate:,.1f} per second"]
        if self.total is not None:
            parts[0] = f"{self.desc}: {self.n:,} of {self.total:,} {self.unit}s"
            left = self.total - self.n
            parts.append(f"{left / max(rate, 1e-9):,.0f} s left" if left > 0 else "")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self.disable:
            return
        if self._bar is not None:
            self._bar.clear()
        print(message, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands; in a log, say how far it came."""
        if self._bar is not None:
            self._bar.close()
            return
        now = time.monotonic()
        if not self.disable and self.n != self._said and now - self._began >= SHORT_SECONDS:
            self._line(now)


def quiet_libraries() -> None:
    """Silence the libraries' notices about their inner workings. Call it before they are imported."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # nothing forks afterwards
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not glob.glob("/dev/nvidia[0-9]*") and not any(Path(one).exists() for one in ("/dev/kfd", "/dev/dxg")):
        # DeepSpeed warns when it finds no accelerator by itself. For this process: a worker sets its own.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a line for every retry
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("LOG_LEVEL", "error")
    for module in ("deepspeed", "torch", "ray", "transformers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{module}(\.|$)")
    # matplotlib measures itself: on a busy machine a small legend takes longer than it allows
    warnings.filterwarnings("ignore", message=r"Creating legend with loc=.best.")
