"""Keep a block of work quiet: no progress, no notes, no warnings of libraries."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hbt_dist.common.console import hush, quiet_libraries


@contextmanager
def hushed(quiet: bool) -> Iterator[None]:
    """Silence libraries' notices inside the block, and with `quiet` everything but errors.

    Import the libraries inside the block: some read their settings when they are imported.
    """
    quiet_libraries()
    if not quiet:
        yield
        return
    before = hush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hush(before)
