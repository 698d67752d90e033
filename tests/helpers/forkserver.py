"""Fork processes from one server that has loaded what they need.

A start takes a tenth of a second instead of the 5 to 20 seconds that importing torch, DeepSpeed and
transformers takes. There is one server per test process, with one list of modules (`tests.helpers.preload`),
whoever asks first; it ends with the test run.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def forkserver() -> ForkServerContext:
    """Return the context whose processes are forked from the loaded server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.preload"])
    return context


def await_loaded() -> None:
    """Start the server and wait until it has loaded, so that no single test pays for it."""
    process = forkserver().Process(target=int)
    process.start()
    process.join()
