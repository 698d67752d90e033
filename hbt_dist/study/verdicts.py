"""What a study's tests support, and the words for it (docs/studies.md has the rules).

A difference *holds* where its test over questions and its paired t test over seeds are both below 0.05 after
Holm's correction. The corrections run over what is claimed together: the primary contrasts over all
benchmarks, all other tests within a benchmark. Requiring both keeps the chance of any false claim in such a
family at 5 %, that of the test over seeds; the test over questions adds that it is more than these questions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hbt_dist.common.numbers import plain, signed
from hbt_dist.comparison.significance import holm
from hbt_dist.evaluation.metrics import near_chance
from hbt_dist.reports.evaluation.sections import SIGNIFICANT, WORDS
from hbt_dist.study.settings import StudyFile

Contrast = tuple[str, str, str]  # method, reference, setting
Holds = Literal["holds", "questions only", "no"]

MARKS: dict[Holds, str] = {"holds": "*", "questions only": "°", "no": ""}


@dataclass(frozen=True)
class Finding:
    """One test of one benchmark; its p values are corrected in place (`row`)."""

    label: str  # of the benchmark
    row: dict[str, Any]  # of `compare`
    primary: bool

    @property
    def contrast(self) -> Contrast:
        """Method, reference, setting."""
        return self.row["system"], self.row["baseline"], self.row["setting"]

    @property
    def gain(self) -> float:
        """Over cells, mean over seeds."""
        return float(self.row["difference"])

    @property
    def seeds(self) -> dict[str, Any] | None:
        """The test over seeds, none with one seed."""
        found: dict[str, Any] | None = self.row["seeds"]
        return found

    @property
    def holds(self) -> Holds:
        """Over questions and seeds, over questions only, or not."""
        if self.row["trivial"] or self.row["p_holm"] >= SIGNIFICANT:
            return "no"
        seeds = self.seeds
        return "holds" if seeds is not None and seeds["p_holm"] < SIGNIFICANT else "questions only"

    @property
    def near_chance(self) -> bool:
        """Whether both systems are little better than a random order."""
        return near_chance(max(self.row["mean_a"], self.row["mean_b"]), self.row["chance"])

    def cell(self) -> str:
        """Such as ``+0.0196*``; ``trivial`` where nothing is tested."""
        return "trivial" if self.row["trivial"] else signed(self.gain) + MARKS[self.holds]

    def sentence(self) -> str:
        """The verdict in words."""
        name, reference, setting = self.contrast
        what = f"{self.label}: {name} against {reference}, {setting} {self.row['metric'].replace('_', ' ')}"
        if self.row["trivial"]:
            return f"{what}: trivial, a question's own text is among its candidates."
        digits = 1 if self.row["metric"] == "rank_distance" else 4
        change = f"{what} changes by {self.gain:+.{digits}f}"
        said = {
            "holds": "holds over questions and over seeds",
            "questions only": "holds over questions; the seeds do not settle it"
            if self.seeds
            else "holds over questions; one seed",
            "no": "no difference is found",
        }
        return f"{change}: {said[self.holds]}{' (near chance)' if self.near_chance else ''}."


def judge(study: StudyFile, comparisons: dict[str, dict[str, dict[str, Any]]]) -> list[Finding]:
    """Correct all tests of a study by the families they belong to.

    Args:
        comparisons: label of a benchmark -> reference -> document of `compare`; the corrected p values take
            the place of `p_holm` in their tests.
    """
    primaries = study.primaries()
    found = []
    for label, documents in comparisons.items():
        for document in documents.values():
            for row in document["tests"]:
                contrast = row["system"], row["baseline"], row["setting"]
                primary = row["metric"] == "map" and contrast in primaries and not row["trivial"]
                found.append(Finding(label, row, primary))
    correct([one.row for one in found if one.primary])
    for label in comparisons:
        correct([one.row for one in found if one.label == label and not one.primary])
    return found


def correct(rows: Sequence[dict[str, Any]]) -> None:
    """Holm's correction over one family of tests, over questions and over seeds apart."""
    tested = [row for row in rows if not row["trivial"]]
    for row, p in zip(tested, holm([row["p_randomisation"] for row in tested]), strict=True):
        row["p_holm"] = p
    seeds = [row["seeds"] for row in tested if row["seeds"]]
    for one, p in zip(seeds, holm([one["p"] for one in seeds]), strict=True):
        one["p_holm"] = p


def lead(found: Sequence[Finding]) -> str:
    """The first word on a primary contrast, by what holds on its benchmarks."""
    if all(one.seeds is None for one in found):
        return "Not known with one seed."
    signs = [(one.gain > 0) - (one.gain < 0) if one.holds == "holds" else 0 for one in found]
    up, down = signs.count(1), signs.count(-1)
    if not up and not down:
        return "Not resolved."
    if up and down:
        return "Mixed."
    if up:
        return "Yes." if up == len(signs) else "In part."
    return "No, the opposite." if down == len(signs) else "No."


def sentences(found: Sequence[Finding]) -> list[str]:
    """What a primary contrast did, benchmark by benchmark: raises, lowers, unsettled, none found."""
    name, reference, setting = found[0].contrast
    num_seeds = max((one.seeds["num_seeds"] if one.seeds else 1) for one in found)
    raised = [one for one in found if one.holds == "holds" and one.gain > 0]
    lowered = [one for one in found if one.holds == "holds" and one.gain < 0]
    unsettled = [one for one in found if one.holds == "questions only"]
    none = [one for one in found if one.holds == "no"]
    lines = []
    what = f"{WORDS[setting]} mAP over {reference}"
    if raised:
        lines.append(f"{name} raises {what} on {_listed(raised)}.")
    if lowered:
        lines.append(f"{name} lowers {what} on {_listed(lowered)}.")
    if unsettled:
        higher, lower = ([one for one in unsettled if (one.gain > 0) == up] for up in (True, False))
        told = [f"{word} on {_listed(some)}" for word, some in (("higher", higher), ("lower", lower)) if some]
        seeds = "one seed does" if num_seeds == 1 else f"{num_seeds} seeds do"
        lines.append(
            f"{name}'s {WORDS[setting]} mAP is {' and '.join(told)} than that of {reference}, with the "
            f"models trained here: {seeds} not settle whether others would differ."
        )
    if none:
        lines.append(f"No difference in {what} is found on {_listed(none)}.")
    return lines


def _listed(found: Collection[Finding]) -> str:
    return ", ".join(
        f"{one.label} ({signed(one.gain)}: {plain(one.row['mean_a'])} to {plain(one.row['mean_b'])}"
        f"{', near chance' if one.near_chance else ''})"
        for one in found
    )
