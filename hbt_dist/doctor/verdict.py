"""Define the verdict of one check of `hbt-dist doctor`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hbt_dist.run_file import RunFile

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Verdict:
    """The result of one check.

    Args:
        level: ok; warning (training works, but read it); problem (training would fail or go wrong).
        finding: what the machine has.
        remedy: what to do.
        check: name of the check; by default its name in the table `hbt_dist.doctor.report.CHECKS`.
    """

    level: Level
    finding: str
    remedy: str = ""
    check: str = ""

    def __str__(self) -> str:
        line = f"{self.level:<8} {self.check}: {self.finding}"
        return f"{line}\n{'':<9}-> {self.remedy}" if self.remedy else line


Check = Callable[[RunFile | None], Iterator[Verdict]]
