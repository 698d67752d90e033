"""Check what this machine and its administrators grant a process: threads, priority, sockets, home folder."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

from hbt_dist.common.processors import Processors, divide_threads
from hbt_dist.doctor.verdict import Verdict
from hbt_dist.orchestration.private_cluster import home_problem, make_folder
from hbt_dist.run_file import RunFile


def check_threads(run: RunFile | None) -> Iterator[Verdict]:
    """Report the CPU threads that each worker of a training takes on this machine, and why."""
    if run is not None and run.training.threads_per_worker is not None:
        yield Verdict("ok", f"{run.training.threads_per_worker} per worker (training.threads_per_worker)")
        return
    workers = 1 if run is None else run.workers.num_workers
    threads = divide_threads([Processors.of_this_process()] * workers)
    if threads.limited:
        remedy = "set training.threads_per_worker, or raise the limit that the line names"
        yield Verdict("warning", str(threads), remedy)
    else:
        yield Verdict("ok", str(threads))


def check_sockets(_: RunFile | None) -> Iterator[Verdict]:
    """Open a socket with the path that Ray would use on this machine.

    Raises:
        UserError: no folder is short and writable.
    """
    folder = make_folder()
    shutil.rmtree(folder)
    temporary = tempfile.gettempdir()
    if str(folder.parent) == temporary:
        yield Verdict("ok", f"Ray's sockets are opened in {temporary}")
    else:
        finding = (
            f"Ray's sockets need a shorter path than {temporary}: a private cluster uses {folder.parent}"
        )
        yield Verdict("warning", finding, "for 'ray start' on this machine add --temp-dir=/tmp/ray")


def check_home(_: RunFile | None) -> Iterator[Verdict]:
    """Check that the home folder can be written: Ray, the hub and compilers keep files there."""
    if problem := home_problem():
        finding = f"{problem}; training works, but models of the hub cannot be stored"
        yield Verdict("warning", finding, "export HOME=FOLDER, or HF_HOME=FOLDER, with a folder to write to")
    else:
        yield Verdict("ok", f"{os.path.expanduser('~')} can be written")


def check_priority(_: RunFile | None) -> Iterator[Verdict]:
    """Check that this process runs at normal priority: next to other work a lower one starves."""
    if niceness := os.nice(0):
        remedy = "start it without 'nice'; a privileged user can run 'renice -n 0 -p PROCESS'"
        yield Verdict("warning", f"this process and its workers run at nice {niceness:+d}", remedy)
    else:
        yield Verdict("ok", "this process and its workers run at normal priority (nice 0)")
