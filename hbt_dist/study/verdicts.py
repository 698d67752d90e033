"""Decide which differences of a study hold (docs/studies.md has the rules).

A difference *holds* if its test over questions and its paired t test over seeds are both below 0.05 after
Holm's correction. The corrections cover what is claimed together: the primary contrasts over all benchmarks,
all further tests within a benchmark. Requiring both tests bounds the chance of any false claim in such a
family at 5 %, the level of the test over seeds; the test over questions adds that the difference is not due
to these questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hbt_dist.common.numbers import signed
from hbt_dist.comparison.significance import SIGNIFICANT, holm
from hbt_dist.evaluation.metrics import near_chance
from hbt_dist.study.settings import StudyFile

Contrast = tuple[str, str, str]  # method, reference, setting
Holds = Literal["holds", "questions only", "no"]

_TEST = ("system", "baseline", "setting", "metric")
MARKS: dict[Holds, str] = {"holds": "*", "questions only": "°", "no": ""}


@dataclass(frozen=True)
class Finding:
    """A test on a benchmark; `judge` adds the corrected p values to its `row`."""

    label: str  # of the benchmark
    row: dict[str, Any]  # of `compare`
    primary: bool

    @property
    def contrast(self) -> Contrast:
        """Method, reference, setting."""
        return self.row["system"], self.row["baseline"], self.row["setting"]

    @property
    def gain(self) -> float:
        """Mean difference over cells and seeds."""
        return float(self.row["difference"])

    @property
    def seeds(self) -> dict[str, Any] | None:
        """The test over seeds; None with one seed."""
        test: dict[str, Any] | None = self.row["seeds"]
        return test

    @property
    def holds(self) -> Holds:
        """Whether the difference holds over questions and seeds, over questions only, or not."""
        if self.row["trivial"] or self.row["p_holm"] >= SIGNIFICANT:
            return "no"
        return "holds" if self.seeds is not None and self.seeds["p_holm"] < SIGNIFICANT else "questions only"

    @property
    def near_chance(self) -> bool:
        """Whether both systems are little better than a random order."""
        return near_chance(max(self.row["mean_a"], self.row["mean_b"]), self.row["chance"])

    def cell(self) -> str:
        """Return the gain with its mark, such as ``+0.0196*``, or ``trivial``."""
        return "trivial" if self.row["trivial"] else signed(self.gain) + MARKS[self.holds]

    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.row["trivial"]:
            return "trivial: a question's own text is among its candidates"
        verb = "raises" if self.gain > 0 else "lowers"
        seeds = f"{self.seeds['num_seeds']} seeds do" if self.seeds else "one seed does"
        verdict = {
            "holds": f"{verb} it, over questions and over seeds",
            "questions only": f"{verb} it over questions; {seeds} not settle it",
            "no": "no difference is found",
        }[self.holds]
        return verdict + (" (near chance)" if self.near_chance else "")


def judge(study: StudyFile, comparisons: dict[str, dict[str, dict[str, Any]]]) -> list[Finding]:
    """Correct all tests of a study within their families.

    Args:
        comparisons: label of a benchmark -> reference -> document of `compare`; the corrected p values
            replace `p_holm` in their tests.
    """
    # Method, reference, setting and metric of each test that answers the question.
    decisive = {(*contrast, "map") for contrast in study.primaries()}
    findings = [
        Finding(label, row, not row["trivial"] and tuple(row[key] for key in _TEST) in decisive)
        for label, documents in comparisons.items()
        for document in documents.values()
        for row in document["tests"]
    ]
    _correct([finding.row for finding in findings if finding.primary])
    for label in comparisons:
        _correct([finding.row for finding in findings if finding.label == label and not finding.primary])
    return findings


def _correct(rows: Sequence[dict[str, Any]]) -> None:
    """Correct one family of tests, separately over questions and over seeds."""
    tested = [row for row in rows if not row["trivial"]]
    for row, p in zip(tested, holm([row["p_randomisation"] for row in tested]), strict=True):
        row["p_holm"] = p
    seeds = [row["seeds"] for row in tested if row["seeds"]]
    for test, p in zip(seeds, holm([test["p"] for test in seeds]), strict=True):
        test["p_holm"] = p


def lead(findings: Sequence[Finding]) -> str:
    """Return the first words on a primary contrast: the verdict over all its benchmarks."""
    if all(finding.seeds is None for finding in findings):
        return "Not known with one seed."
    resolved = [finding for finding in findings if finding.holds == "holds"]
    up, down = sum(finding.gain > 0 for finding in resolved), sum(finding.gain < 0 for finding in resolved)
    chance = ", but near chance" if all(finding.near_chance for finding in resolved) else ""
    if up and down:
        return "Mixed."
    if up:
        return f"{'Yes' if up == len(findings) else 'In part'}{chance}."
    if down:
        return "No, the opposite." if down == len(findings) else "No."
    return "Not resolved."
