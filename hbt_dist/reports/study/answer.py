"""The first screen of a study's report: what the primary contrasts say, how surely, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hbt_dist.common.numbers import plain, signed, span
from hbt_dist.comparison.typology import FAMILIES
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.reports.evaluation.sections import WORDS
from hbt_dist.reports.pages.document import Document
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.reports.study.families import (
    add_family_table,
    family_rows,
    family_sentence,
    needed_lines,
    over_seeds_tested,
    resolved,
)
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.tables import PLANNING_CONFIDENCE, detectable_gain
from hbt_dist.study.verdicts import Contrast, Finding, lead, sentences

_FIRST, _SECOND = FAMILIES
_PLANNED_SEEDS = (3, 5, 10, 20)
#: What is not settled, its test over seeds if it has several, and how many tests are corrected together.
_Plan = tuple[str, dict[str, Any] | None, int]
LEGEND = (
    "* holds over questions and over seeds; ° holds over questions, the seeds do not settle it; no mark: no "
    "difference is found. Marks are corrected for the tests made together, intervals (95 %) are not. Near: "
    "less than three times the mAP of a random order."
)


def add_answer(
    document: Document, study: StudyFile, parts: Sequence[BenchmarkPart], findings: Sequence[Finding]
) -> None:
    """The answer of every primary contrast, then what is missing and the limits."""
    document.heading("Answer")
    plans: list[_Plan] = []
    families_of = family_rows(parts, study.primaries())
    tests = sum(one.primary and one.seeds is not None for one in findings)
    family_tests = sum(over_seeds_tested(row) for some in families_of.values() for _, row in some)
    for contrast in study.primaries():
        found = [one for one in findings if one.primary and one.contrast == contrast]
        method, reference, _ = contrast
        if not found:
            document.paragraph(_unanswered(parts, contrast))
            continue
        families = families_of.get(contrast, [])
        text = " ".join([*sentences(found), family_sentence(families)])
        document.paragraph(text.strip(), lead=lead(found))
        _gains(document, parts, findings, contrast)
        document.paragraph(LEGEND)
        if families:
            add_family_table(document, families, contrast)
        plans += [
            (f"{one.label}: {method} - {reference}", one.seeds, tests)
            for one in found
            if one.holds != "holds"
        ]
        plans += [
            (f"{label}: {_SECOND} - {_FIRST}, {method}", row["seeds"], family_tests)
            for label, row in families
            if row["languages"] == "all" and row["low"] is not None and not resolved(row)
        ]
    _missing(document, plans, needed_lines(row for some in families_of.values() for row in some))
    document.heading("Limits", 3)
    document.items(_limits(study, parts, findings))


def _unanswered(parts: Sequence[BenchmarkPart], contrast: Contrast) -> str:
    """Why a primary contrast has no test: more results will not help where benchmarks have no such figure."""
    method, reference, setting = contrast
    if len(_without(parts, setting)) == len(parts):
        return (
            f"Nothing can be said of {method} against {reference}: no benchmark with results has "
            f"{WORDS[setting]} figures. `primary` can name another setting."
        )
    return (
        f"Nothing can be said yet of {method} against {reference}: no benchmark has {WORDS[setting]} "
        "results of both with a common seed."
    )


def _without(parts: Sequence[BenchmarkPart], setting: str) -> list[str]:
    """The benchmarks that have no mAP of a setting, whatever is evaluated."""
    return [part.label for part in parts if part.seeds[setting].isna().all()]


def _gains(
    document: Document, parts: Sequence[BenchmarkPart], findings: Sequence[Finding], contrast: Contrast
) -> None:
    method, reference, decisive = contrast
    rows = []
    for part in parts:
        cells = {
            one.contrast[2]: one
            for one in findings
            if one.label == part.label and one.contrast[:2] == contrast[:2] and one.row["metric"] == "map"
        }
        if not cells:
            continue
        shown = [cells[name].cell() if name in cells else "-" for name in SETTINGS]
        main = cells.get(decisive)
        if main is None:
            rows.append([part.label, *shown, "-", "-", "-", "-"])
            continue
        seeds = main.seeds or {}
        chance = plain(main.row["chance"]) + (" (near)" if main.near_chance else "")
        rows.append(
            [
                part.label,
                *shown,
                span(main.row["low"], main.row["high"]),
                span(seeds.get("low"), seeds.get("high")),
                f"{plain(main.row['mean_a'])} to {plain(main.row['mean_b'])}",
                chance,
            ]
        )
    word = WORDS[decisive]
    document.table(
        f"{method} minus {reference}: change in mAP; intervals, levels and chance are of the {word} one",
        [
            "benchmark",
            *(WORDS[name] for name in SETTINGS),
            "over questions",
            "over seeds",
            f"{word} mAP",
            "chance",
        ],
        rows,
    )


def _missing(document: Document, plans: Sequence[_Plan], needed: Sequence[str]) -> None:
    """What would settle what is open: seeds, languages, questions."""
    known = [
        (name, seeds, tests) for name, seeds, tests in plans if seeds is not None and seeds["spread"] > 0
    ]
    lines = list(needed)
    if not plans and not lines:
        return
    document.heading("What it would take to be sure", 3)
    if known:
        document.table(
            "The smallest true gain that so many seeds find with 80 % power (paired t at 5 % divided by the "
            "tests that are corrected together, the most that Holm asks), by the upper "
            f"{100 * PLANNING_CONFIDENCE:.0f} % limit of the spread between seeds",
            [
                "not settled",
                "measured gain",
                "spread",
                "tests",
                *(f"{many} seeds" for many in _PLANNED_SEEDS),
            ],
            [
                [
                    name,
                    signed(seeds["difference"]),
                    plain(seeds["spread"]),
                    str(tests),
                    *(
                        plain(detectable_gain(seeds["spread"], seeds["num_seeds"], many, tests=tests))
                        for many in _PLANNED_SEEDS
                    ),
                ]
                for name, seeds, tests in known
            ],
        )
    if len(known) < len(plans):
        lines.insert(0, "How many seeds it takes is not known with one seed.")
    if lines:
        document.items(lines)


def _limits(study: StudyFile, parts: Sequence[BenchmarkPart], findings: Sequence[Finding]) -> list[str]:
    lines = []
    own = [part.label for part in parts if part.facts["own_text_relevant"]]
    if own:
        lines.append(
            f"In {', '.join(own)} a question's own text is among the candidates: monolingual figures are "
            "trivial and not tested, and multilingual ones hold one free hit."
        )
    for setting in dict.fromkeys(setting for _, _, setting in study.primaries()):
        absent = _without(parts, setting)
        if 0 < len(absent) < len(parts):
            lines.append(
                f"No {WORDS[setting]} figures, so that the answer leaves it out: {', '.join(absent)}."
            )
    near = list(dict.fromkeys(one.label for one in findings if one.primary and one.near_chance))
    if near:
        lines.append(f"Near chance, so that no method does well: {', '.join(near)}.")
    lines.append(
        "Only the contrasts at the top were stated as the study's question; every other test is exploratory."
    )
    return [*lines, *study.notes]
