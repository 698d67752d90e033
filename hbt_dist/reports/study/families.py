"""Report the difference of a study's primary gains between two language families.

A difference *holds for these languages* if its interval over questions excludes 0 and its p over seeds is
below 0.05; it holds *over a permutation of them* if the permutation's p is below 0.05 too. Both p are
corrected (Holm) over all primary contrasts and benchmarks of the study, because they are claimed together.
The interval is not corrected: as in `verdicts`, the test over seeds bounds the chance of a false claim.

Numbers of seeds, questions and languages decide which tests are corrected, never a gain: a test that cannot
support a claim does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hbt_dist.common.numbers import p_value, signed, span
from hbt_dist.comparison.families import claim_possible
from hbt_dist.comparison.gains import MIN_UNITS
from hbt_dist.comparison.significance import SIGNIFICANT, holm
from hbt_dist.comparison.typology import FAMILIES
from hbt_dist.pages.document import Document
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.study.verdicts import Contrast

_FIRST, _SECOND = FAMILIES

#: Label of a benchmark and its `FamilyDifference`, with the corrected p values.
Row = tuple[str, dict[str, Any]]


def family_rows(parts: Sequence[BenchmarkPart], contrasts: Iterable[Contrast]) -> dict[Contrast, list[Row]]:
    """Collect the differences of families of each contrast, corrected together.

    Args:
        contrasts: all primary contrasts of the study; only cross-lingual ones have differences of families.

    Returns:
        contrast -> rows, with `p_seeds_holm` and `p_languages_holm`; None for a test that supports no claim.
    """
    by_contrast: dict[Contrast, list[Row]] = {
        contrast: [
            (part.label, {**row, "p_seeds_holm": None, "p_languages_holm": None})
            for part in parts
            for row in part.families(contrast[0], contrast[1]).get("families", [])
        ]
        for contrast in contrasts
        if contrast[2] == "crosslingual"
    }
    rows = [row for families in by_contrast.values() for _, row in families]
    trained = [row for row in rows if over_seeds_tested(row)]
    for row, p in zip(trained, holm([row["seeds"]["p"] for row in trained]), strict=True):
        row["p_seeds_holm"] = p
    permuted = [row for row in rows if claim_possible(*_num_languages(row))]
    for row, p in zip(permuted, holm([row["p_languages"] for row in permuted]), strict=True):
        row["p_languages_holm"] = p
    return by_contrast


def over_seeds_tested(row: Mapping[str, Any]) -> bool:
    """Return whether the difference is among those tested over seeds together.

    Unseen languages alone get no verdict, and more seeds cannot replace missing questions.
    """
    return bool(row["languages"] == "all" and row["seeds"] and row["low"] is not None)


def resolved(row: Mapping[str, Any]) -> bool:
    """Return whether a difference of families holds for these languages: over questions and over seeds."""
    p = row["p_seeds_holm"]
    return bool(p is not None and p < SIGNIFICANT and row["low"] * row["high"] > 0)


def family_verdict(row: Mapping[str, Any]) -> str:
    """Return the verdict on a difference of families in words."""
    if min(_num_languages(row)) < 2:
        return "no claim, fewer than two languages of a family"
    if row["languages"] != "all":
        return "no claim, unseen languages only"
    if row["low"] is None:
        return f"not tested, under {MIN_UNITS} questions of a family"
    if not resolved(row):
        return "not resolved"
    if row["p_languages_holm"] is not None and row["p_languages_holm"] < SIGNIFICANT:
        return "holds for these languages and over a permutation of them"
    return "holds for these languages, not for the families"


def add_family_table(document: Document, families: Sequence[Row], contrast: Contrast) -> None:
    """Add the differences of one contrast with their verdicts, and how to read them."""
    rows = []
    for label, row in families:
        seeds = row["seeds"] or {}
        lowest = f"at best {p_value(row['smallest_p'])}"
        p = row["p_languages_holm"]
        rows.append(
            [
                _name(label, row),
                signed(row["gain_a"]),
                signed(row["gain_b"]),
                signed(row["difference"]),
                family_verdict(row),
                span(row["low"], row["high"]),
                span(seeds.get("low"), seeds.get("high")),
                p_value(row["p_seeds_holm"]),
                lowest if p is None else f"{p_value(p)} ({lowest})",
                f"{len(row['languages_a'])} and {len(row['languages_b'])} ({', '.join(row['languages_b'])})",
            ]
        )
    intervals = ["over questions", "over seeds", "p (seeds)", "p (languages)"]
    document.table(
        f"Cross-lingual gain of {contrast[0]} over {contrast[1]} by family; intervals of the difference",
        ["benchmark", _FIRST, _SECOND, "difference", "finding", *intervals, "languages"],
        rows,
    )
    document.paragraph(
        "Intervals are for these languages; only p (languages) covers the families: an exact permutation of "
        "the languages, corrected over all tests that can be below 0.05 (at best: the smallest possible p, "
        "not corrected). Unseen only: pairs of two languages without training data."
    )


def needed_lines(families: Iterable[Row]) -> list[str]:
    """Return what a claim about families needs if languages or questions are too few."""
    languages: dict[str, None] = {}  # each benchmark once
    questions: dict[str, None] = {}
    for label, row in families:
        name, (first, second) = _name(label, row), _num_languages(row)
        if not claim_possible(first, second):
            languages[f"{name} has {first} and {second}"] = None
        if row["low"] is None:
            questions[f"{name} has {row['fewest_questions']}"] = None
    needs = (
        (f"A claim needs 8 and 2, or 5 and 3 languages of {_FIRST} and {_SECOND}", languages),
        (f"An interval of the difference needs {MIN_UNITS} questions of each family", questions),
    )
    return [f"{need}, for any number of seeds: {'; '.join(names)}." for need, names in needs if names]


def _num_languages(row: Mapping[str, Any]) -> tuple[int, int]:
    return len(row["languages_a"]), len(row["languages_b"])


def _name(label: str, row: Mapping[str, Any]) -> str:
    return label if row["languages"] == "all" else f"{label}, unseen only"
