"""Announce a phase of work when it begins, so that no wait is silent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from hbt_dist.common.console import Say, duration

#: A longer phase prints its seconds.
_LONG_SECONDS = 2.0


@contextmanager
def phase(say: Say, text: str, about: float | None = None) -> Iterator[None]:
    """Print what begins, run the block, and print its seconds if it took long.

    Args:
        say: prints a line.
        text: what begins, such as ``starting Ray``.
        about: seconds that the block usually takes; None: unknown.
    """
    say(text if about is None else f"{text}: about {duration(about)}")
    began = time.monotonic()
    yield
    seconds = time.monotonic() - began
    if seconds > _LONG_SECONDS:
        say(f"  took {duration(seconds)}")
