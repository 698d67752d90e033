"""Run the checks of `hbt-dist doctor` and print one verdict per line.

The checks change nothing and remove the files that they write. They take about 20 s on a laptop, most of it
for two processes that train a tiny model and compare its gradient. With a run file they check its settings,
folders and workers; without one they check this machine in general.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.doctor.cluster import check_cluster
from hbt_dist.doctor.limits import check_home, check_priority, check_sockets, check_threads
from hbt_dist.doctor.machine import (
    check_accelerator,
    check_collectives,
    check_deepspeed,
    check_disk,
    check_faiss,
    check_hub,
    check_kernel,
    check_packages,
    check_precision,
    check_python,
)
from hbt_dist.doctor.verdict import Check, Verdict
from hbt_dist.run_file import RunFile

#: Name -> check, in the order of the report.
CHECKS: dict[str, Check] = {
    "python": check_python,
    "packages": check_packages,
    "accelerator": check_accelerator,
    "precision": check_precision,
    "threads": check_threads,
    "priority": check_priority,
    "deepspeed": check_deepspeed,
    "loss.kernel": check_kernel,
    "faiss": check_faiss,
    "disk": check_disk,
    "sockets": check_sockets,
    "home": check_home,
    "hub": check_hub,
    "ray": check_cluster,
    "collectives": check_collectives,
}


def examine(run: RunFile | None = None) -> Iterator[Verdict]:
    """Run all checks and yield their verdicts as they become known.

    Args:
        run: a run file whose workers, folders and engine settings are checked.
    """
    for name, check in CHECKS.items():
        try:
            for verdict in check(run):
                yield replace(verdict, check=verdict.check or name)
        except UserError as error:
            remedy = error.remedy.replace("\n", " ")
            yield Verdict("problem", f"{error.location}: {error.problem}", remedy, name)
        except Exception as error:  # a broken library must not hide the other verdicts
            problem = f"the check failed: {type(error).__name__}: {first_line(error)[:300]}"
            yield Verdict("problem", problem, check=name)


def report(verdicts: Iterable[Verdict], *, as_json: bool, say: Callable[[str], None]) -> int:
    """Print verdicts as they arrive, or all as one JSON object; return the number of problems."""
    printed: list[Verdict] = []
    for verdict in verdicts:
        printed.append(verdict)
        if not as_json:
            say(str(verdict))
    levels = [verdict.level for verdict in printed]
    counts = {level: levels.count(level) for level in ("ok", "warning", "problem")}
    if as_json:
        documents = [
            {
                "check": verdict.check,
                "level": verdict.level,
                "found": verdict.finding,
                "remedy": verdict.remedy,
            }
            for verdict in printed
        ]
        say(json.dumps({"verdicts": documents, **counts}, indent=1))
    else:
        say(f"{counts['problem']} problems, {counts['warning']} warnings, {counts['ok']} ok")
    return counts["problem"]
