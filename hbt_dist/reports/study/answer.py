"""Write the first section of a study's report: verdicts of the primary contrasts, open points, limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import p_value, plain, signed, span
from hbt_dist.comparison.typology import FAMILIES
from hbt_dist.pages.document import Document, Tile
from hbt_dist.reports.evaluation.sections import SETTING_TITLES
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.reports.study.families import (
    add_family_table,
    family_rows,
    needed_lines,
    over_seeds_tested,
    resolved,
)
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.tables import PLANNING_CONFIDENCE, detectable_gain
from hbt_dist.study.verdicts import Contrast, Finding, lead

_FIRST, _SECOND = FAMILIES
_PLANNED_SEEDS = (3, 5, 10, 20)
#: Unsettled difference, its test over seeds if there are several, number of tests corrected together.
_Plan = tuple[str, dict[str, Any] | None, int]
LEGEND = (
    "* holds over questions and over seeds; ° holds over questions, the seeds do not settle it; no mark: no "
    "difference is found. Marks and p are corrected for the tests made together, intervals (95 %) are not. "
    "Near chance: less than three times the mAP of a random order, and of the way from there to 1 less than "
    "a quarter."
)


_MOST_TILES = 4


def headline(study: StudyFile, findings: Sequence[Finding]) -> str:
    """Return the answer of the first primary contrast with its levels in words."""
    contrast = next(iter(study.primaries()))
    answers = [finding for finding in findings if finding.primary and finding.contrast == contrast]
    method, reference, setting = contrast
    if not answers:
        return f"No answer: {method} and {reference} have no common {SETTING_TITLES[setting]} figure."
    levels = "; ".join(
        f"on {finding.label} {plain(finding.row['mean_a'])} → {plain(finding.row['mean_b'])}"
        for finding in answers
    )
    raised = {finding.gain > 0 for finding in answers if finding.holds == "holds"}
    figure = f"{SETTING_TITLES[setting]} mAP"
    if len(raised) != 1:
        return f"{lead(answers)} {figure} of {reference} → {method}: {levels}."
    verb = "raises" if raised == {True} else "lowers"
    return f"{lead(answers)} {method} {verb} {figure} over {reference}: {levels}."


def tiles(parts: Sequence[BenchmarkPart], findings: Sequence[Finding]) -> list[Tile]:
    """Return the levels of the first primary contrast, a tile for each of up to four benchmarks."""
    primary = [finding for finding in findings if finding.primary]
    shown = [finding for finding in primary if finding.contrast == primary[0].contrast][:_MOST_TILES]
    by_label = {part.label: part.before for part in parts}
    figures = []
    for finding in shown:
        method, reference, setting = finding.contrast
        before = [plain(value) for value in by_label[finding.label][setting]]
        seeds = finding.seeds
        interval = f"{span(seeds['low'], seeds['high'])} over " if seeds else ""
        over = f"{interval}{counted(seeds['num_seeds'] if seeds else 1, 'seed')}"
        notes = [f"{reference} → {method}", over]
        notes += [f"before training {', '.join(before)}"] if before else []
        figures.append(
            Tile(
                f"{SETTING_TITLES[setting]} mAP, {finding.label}",
                plain(finding.row["mean_a"]),
                plain(finding.row["mean_b"]),
                "; ".join([*notes, f"chance {plain(finding.row['chance'])}"]),
            )
        )
    return figures


def add_answer(
    document: Document, study: StudyFile, parts: Sequence[BenchmarkPart], findings: Sequence[Finding]
) -> None:
    """Add the verdict of every primary contrast, then what is missing and the limits."""
    document.heading("Answer")
    plans: list[_Plan] = []
    families_of = family_rows(parts, study.primaries())
    family_tests = sum(over_seeds_tested(row) for rows in families_of.values() for _, row in rows)
    primary = [finding for finding in findings if finding.primary]
    tests = sum(finding.seeds is not None for finding in primary)
    for contrast in study.primaries():
        answers = [finding for finding in primary if finding.contrast == contrast]
        method, reference, setting = contrast
        if not answers:
            document.paragraph(_unanswered(parts, contrast))
            continue
        question = f"Does {method} raise {SETTING_TITLES[setting]} mAP over {reference}?"
        document.paragraph(lead(answers), lead=question)
        _add_findings(document, parts, answers)
        families = families_of.get(contrast, [])
        if families:
            add_family_table(document, families, contrast)
        plans += [
            (f"{finding.label}: {method} - {reference}", finding.seeds, tests)
            for finding in answers
            if finding.holds != "holds"
        ]
        plans += [
            (f"{label}: {_SECOND} - {_FIRST}, {method}", row["seeds"], family_tests)
            for label, row in families
            if row["languages"] == "all" and row["low"] is not None and not resolved(row)
        ]
    if primary:
        document.paragraph(LEGEND)
    _missing(document, plans, needed_lines(row for rows in families_of.values() for row in rows))
    document.heading("Limits", 3)
    document.items(_limits(study, parts, primary))


def _unanswered(parts: Sequence[BenchmarkPart], contrast: Contrast) -> str:
    """Explain why a primary contrast has no test: more results do not help if benchmarks lack the figure."""
    method, reference, setting = contrast
    if len(_without(parts, setting)) == len(parts):
        return (
            f"{method} against {reference} cannot be answered: no benchmark with results has "
            f"{SETTING_TITLES[setting]} figures. `primary` can name another setting."
        )
    return (
        f"{method} against {reference} cannot be answered yet: no benchmark has {SETTING_TITLES[setting]} "
        "results of both with a common seed."
    )


def _without(parts: Sequence[BenchmarkPart], setting: str) -> list[str]:
    """Return the benchmarks that have no mAP of a setting for any method."""
    return [part.label for part in parts if part.seeds[setting].isna().all()]


def _add_findings(document: Document, parts: Sequence[BenchmarkPart], answers: Sequence[Finding]) -> None:
    """Add a row with gain, intervals, p values and one sentence for every benchmark."""
    method, reference, setting = answers[0].contrast
    by_label = {finding.label: finding for finding in answers}
    rows = []
    for part in parts:
        finding = by_label.get(part.label)
        if finding is None:
            rows.append([part.label, "-", "no figure of both", *["-"] * 6])
            continue
        row, seeds = finding.row, finding.seeds or {}
        rows.append(
            [
                part.label,
                finding.cell(),
                finding.sentence(),
                span(row["low"], row["high"]),
                p_value(row["p_holm"]),
                span(seeds.get("low"), seeds.get("high")),
                p_value(seeds.get("p_holm")),
                f"{plain(row['mean_a'])} to {plain(row['mean_b'])}",
                plain(row["chance"]),
            ]
        )
    tests = ["over questions", "p (questions)", "over seeds", "p (seeds)"]
    document.table(
        f"{method} minus {reference}: change in {SETTING_TITLES[setting]} mAP",
        ["benchmark", "change", "finding", *tests, "mAP", "chance"],
        rows,
    )


def _missing(document: Document, plans: Sequence[_Plan], needed: Sequence[str]) -> None:
    """Add the seeds, languages and questions that would settle the open points."""
    known = [
        (name, seeds, tests) for name, seeds, tests in plans if seeds is not None and seeds["spread"] > 0
    ]
    lines = list(needed)
    if not plans and not lines:
        return
    document.heading("What it would take to be sure", 3)
    if known:
        document.table(
            "The smallest true gain that N seeds find with 80 % power (paired t at 5 % divided by the tests "
            "that are corrected together, the most that Holm requires), by the upper "
            f"{100 * PLANNING_CONFIDENCE:.0f} % limit of the spread between seeds",
            [
                "not settled",
                "measured gain",
                "spread",
                "tests",
                *(f"{number} seeds" for number in _PLANNED_SEEDS),
            ],
            [
                [
                    name,
                    signed(seeds["difference"]),
                    plain(seeds["spread"]),
                    str(tests),
                    *(
                        plain(detectable_gain(seeds["spread"], seeds["num_seeds"], number, tests=tests))
                        for number in _PLANNED_SEEDS
                    ),
                ]
                for name, seeds, tests in known
            ],
        )
    if len(known) < len(plans):
        lines.insert(0, "One seed does not show how many seeds are needed.")
    if lines:
        document.items(lines)


def _limits(study: StudyFile, parts: Sequence[BenchmarkPart], primary: Sequence[Finding]) -> list[str]:
    lines = []
    trivial = [part.label for part in parts if part.facts["own_text_relevant"]]
    if trivial:
        lines.append(
            f"In {', '.join(trivial)} a question's own text is among the candidates: monolingual figures are "
            "trivial and not tested, and multilingual figures contain one trivial hit."
        )
    for setting in dict.fromkeys(setting for _, _, setting in study.primaries()):
        absent = _without(parts, setting)
        if 0 < len(absent) < len(parts):
            lines.append(f"The answer omits {', '.join(absent)}: no {SETTING_TITLES[setting]} figures.")
    near = dict.fromkeys(finding.label for finding in primary if finding.near_chance)
    if near:
        lines.append(f"Near chance, so that no method does well: {', '.join(near)}.")
    lines.append("Only the contrasts above are the study's stated question; every other test is exploratory.")
    return [*lines, *study.notes]
