"""What a study says of two language families: the differences of its primary contrasts, and how surely.

A difference *holds for these languages* if its interval over questions leaves out 0 and its p over seeds is
below 0.05; *over a permutation of them*, if the permutation's p is too. Both p are corrected (Holm) over all
primary contrasts and benchmarks of the study together, as they are claimed together. The interval is not: as
in `verdicts`, the test over seeds alone bounds the chance of a false claim.

Which tests are corrected is decided by numbers of seeds, questions and languages, never by a gain: what can
support no claim takes no part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hbt_dist.common.numbers import p_value, signed, span
from hbt_dist.comparison.families import claim_possible, languages_needed
from hbt_dist.comparison.gains import MIN_UNITS
from hbt_dist.comparison.significance import holm
from hbt_dist.comparison.typology import FAMILIES
from hbt_dist.reports.evaluation.sections import SIGNIFICANT
from hbt_dist.reports.pages.document import Document
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.study.verdicts import Contrast

_FIRST, _SECOND = FAMILIES

#: Label of a benchmark and a `FamilyDifference` of it, with the corrected p values.
Row = tuple[str, dict[str, Any]]


def family_rows(parts: Sequence[BenchmarkPart], contrasts: Iterable[Contrast]) -> dict[Contrast, list[Row]]:
    """The differences of families of each contrast, corrected together.

    Args:
        contrasts: all primary ones of the study; only the cross-lingual ones have differences of families.

    Returns:
        contrast -> rows, with `p_seeds_holm` and `p_languages_holm`; None where no claim is made by them.
    """
    found: dict[Contrast, list[Row]] = {
        one: [
            (part.label, {**row, "p_seeds_holm": None, "p_languages_holm": None})
            for part in parts
            for row in part.families(one[0], one[1]).get("families", [])
        ]
        for one in contrasts
        if one[2] == "crosslingual"
    }
    rows = [row for some in found.values() for _, row in some]
    trained = [row for row in rows if over_seeds_tested(row)]
    for row, p in zip(trained, holm([row["seeds"]["p"] for row in trained]), strict=True):
        row["p_seeds_holm"] = p
    permuted = [row for row in rows if claim_possible(*_languages(row))]
    for row, p in zip(permuted, holm([row["p_languages"] for row in permuted]), strict=True):
        row["p_languages_holm"] = p
    return found


def over_seeds_tested(row: Mapping[str, Any]) -> bool:
    """Whether the difference is one of those that are tested over seeds together.

    Of unseen languages alone no sentence is made; few questions cannot be made good by seeds.
    """
    return bool(row["languages"] == "all" and row["seeds"] and row["low"] is not None)


def resolved(row: Mapping[str, Any]) -> bool:
    """Whether a difference of families holds, for these languages: over questions and over seeds."""
    p = row["p_seeds_holm"]
    return bool(p is not None and p < SIGNIFICANT and row["low"] * row["high"] > 0)


def family_sentence(families: Sequence[Row]) -> str:
    """The differences of families on the benchmarks that have two languages of each."""
    if not families:
        return ""
    told: dict[str, list[str]] = {}
    for label, row in families:
        if row["languages"] != "all" or min(_languages(row)) < 2:
            continue
        if row["low"] is None:
            word = f"not tested, under {MIN_UNITS} questions of a family"
        elif not resolved(row):
            word = "not resolved"
        elif row["p_languages_holm"] is not None and row["p_languages_holm"] < SIGNIFICANT:
            word = "holds for these languages and over a permutation of them"
        else:
            word = "holds for these languages, which says nothing yet of the families"
        told.setdefault(word, []).append(f"{signed(row['difference'])} on {label}")
    if not told:
        return f"No benchmark has two {_FIRST} and two {_SECOND} languages, so nothing is said of families."
    said = "; ".join(f"{', '.join(places)}: {word}" for word, places in told.items())
    return f"Gain of {_SECOND} languages minus that of {_FIRST} ones: {said}."


def add_family_table(document: Document, families: Sequence[Row], contrast: Contrast) -> None:
    """The differences of one contrast, and how to read them."""
    rows = []
    for label, row in families:
        seeds = row["seeds"] or {}
        rows.append(
            [
                _name(label, row),
                signed(row["gain_a"]),
                signed(row["gain_b"]),
                signed(row["difference"]),
                span(row["low"], row["high"]),
                span(seeds.get("low"), seeds.get("high")),
                _permutation(row),
                f"{len(row['languages_a'])} and {len(row['languages_b'])} ({', '.join(row['languages_b'])})",
            ]
        )
    document.table(
        f"Cross-lingual gain of {contrast[0]} over {contrast[1]} by family; intervals of the difference",
        [
            "benchmark",
            _FIRST,
            _SECOND,
            "difference",
            "over questions",
            "over seeds",
            "p (languages)",
            "languages",
        ],
        rows,
    )
    document.paragraph(
        "Intervals are for these languages; of families speaks p alone, an exact permutation of the "
        "languages, corrected over all that could be below 0.05 (at best: what so few can reach, not "
        "corrected). Unseen only: pairs of two languages that are in no training data."
        + (
            f" No interval over questions: under {MIN_UNITS} of a family."
            if any(row["low"] is None for _, row in families)
            else ""
        )
    )


def needed_lines(families: Iterable[Row]) -> list[str]:
    """What a claim about families takes where languages or questions are too few."""
    languages: dict[str, dict[str, None]] = {}  # what would do -> where it is needed, each once
    questions: dict[str, str] = {}
    for label, row in families:
        name, (first, second) = _name(label, row), _languages(row)
        if not claim_possible(first, second):
            ways = ", or ".join(f"{a} and {b}" for a, b in languages_needed(first, second))
            languages.setdefault(ways, {})[f"{name} (has {first} and {second})"] = None
        if row["low"] is None:
            questions[name] = f"{name} has {row['fewest_questions']}"
    lines = []
    if languages:
        lines.append(
            f"A claim about families takes at least two languages of each, and more where these are few. "
            f"{_FIRST} and {_SECOND} ones that would do: "
            + "; ".join(f"{ways} for {', '.join(places)}" for ways, places in languages.items())
            + "."
        )
    if questions:
        lines.append(
            f"An interval of the difference takes {MIN_UNITS} questions of each family, whatever the number "
            f"of seeds: {'; '.join(questions.values())}."
        )
    return lines


def _languages(row: Mapping[str, Any]) -> tuple[int, int]:
    return len(row["languages_a"]), len(row["languages_b"])


def _name(label: str, row: Mapping[str, Any]) -> str:
    return label if row["languages"] == "all" else f"{label}, unseen only"


def _permutation(row: Mapping[str, Any]) -> str:
    lowest = f"at best {p_value(row['smallest_p'])}"
    p = row["p_languages_holm"]
    return lowest if p is None else f"{p_value(p)} ({lowest})"
