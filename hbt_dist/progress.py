"""Progress of long work: a bar on a terminal, a line now and then in a log.

A bar redraws itself with carriage returns, which fills the log of a job with thousands of copies; there one
line every 15 seconds says how far it is, how fast, and how long it will take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0
Say = Callable[[str], None]


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
        self.total, self.desc, self.unit, self.disable = total, desc, unit, disable
        self.n = self._initial = initial
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and not disable:
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
        now = time.monotonic()
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            self._line(now, note)

    def _line(self, now: float, note: str) -> None:
        rate = (self.n - self._initial) / max(now - self._began, 1e-9)
        parts = [f"{self.desc}: {self.n:,} {self.unit}s", note, f"{rate:,.1f} per second"]
        if self.total is not None:
            parts[0] = f"{self.desc}: {self.n:,} of {self.total:,} {self.unit}s"
            parts.append(f"{(self.total - self.n) / max(rate, 1e-9):,.0f} s left")
        print(", ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(message, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
