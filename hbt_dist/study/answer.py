"""The first screen of a study's report: what the primary contrasts say, how surely, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

from hbt_dist.evaluation.report_parts import SIGNIFICANT, WORDS
from hbt_dist.evaluation.significance import holm
from hbt_dist.evaluation.stored import SETTINGS
from hbt_dist.evaluation.typology import FAMILIES
from hbt_dist.pages.document import Document
from hbt_dist.pages.numbers import p_value, plain, signed, span
from hbt_dist.study.benchmark_part import BenchmarkPart
from hbt_dist.study.config import StudyFile
from hbt_dist.study.tables import PLANNING_CONFIDENCE, detectable_gain
from hbt_dist.study.verdicts import Contrast, Finding, lead, sentences

_FIRST, _SECOND = FAMILIES
_PLANNED_SEEDS = (3, 5, 10, 20)
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
    plans: list[tuple[str, dict[str, Any] | None]] = []
    for contrast in study.primaries():
        found = [one for one in findings if one.primary and one.contrast == contrast]
        method, reference, setting = contrast
        if not found:
            document.paragraph(
                f"Nothing can be said yet of {method} against {reference}: no benchmark has {WORDS[setting]} "
                "results of both with a common seed."
            )
            continue
        families = _families(parts, contrast)
        text = " ".join([*sentences(found), _family_sentence(families)])
        document.paragraph(text.strip(), lead=lead(found))
        _gains(document, parts, findings, contrast)
        document.paragraph(LEGEND)
        if families:
            _family_table(document, families, contrast)
            document.paragraph(
                "Intervals are for these languages; of families speaks p alone, an exact permutation of the "
                "languages (at best: what so few can reach). Unseen only: pairs of two languages that are in "
                "no training data."
            )
        plans += [
            (f"{one.label}: {method} - {reference}", one.seeds) for one in found if one.holds != "holds"
        ]
        plans += [
            (f"{label}: {_SECOND} - {_FIRST}, {method}", row["seeds"])
            for label, row in families
            if row["languages"] == "all" and not _resolved(row)
        ]
    _missing(document, plans, parts, study)
    document.heading("Limits", 3)
    document.items(_limits(study, parts, findings))


def _families(parts: Sequence[BenchmarkPart], contrast: Contrast) -> list[tuple[str, dict[str, Any]]]:
    """(benchmark, difference of the families) of a contrast; p over seeds corrected for the benchmarks."""
    if contrast[2] != "crosslingual":
        return []
    found = [
        (part.label, dict(row))
        for part in parts
        for row in part.families(contrast[0], contrast[1]).get("families", [])
    ]
    for kind in ("all", "unseen"):
        rows = [row for _, row in found if row["languages"] == kind and row["seeds"]]
        for row, p in zip(rows, holm([row["seeds"]["p"] for row in rows]), strict=True):
            row["seeds"] = {**row["seeds"], "p_holm": p}
    return found


def _resolved(row: dict[str, Any]) -> bool:
    """Whether a difference of families holds, for these languages: over questions and over seeds."""
    seeds = row["seeds"]
    over_questions = row["low"] is not None and row["low"] * row["high"] > 0
    return bool(over_questions and seeds and seeds["p_holm"] < SIGNIFICANT)


def _family_sentence(families: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """The differences of families on the benchmarks that have two languages of each."""
    if not families:
        return ""
    told: dict[str, list[str]] = {}
    for label, row in families:
        if row["languages"] != "all" or min(len(row["languages_a"]), len(row["languages_b"])) < 2:
            continue
        if not _resolved(row):
            word = "not resolved"
        elif row["p_languages"] is not None and row["p_languages"] < SIGNIFICANT:
            word = "holds for these languages and over a permutation of them"
        else:
            word = "holds for these languages, which says nothing yet of the families"
        told.setdefault(word, []).append(f"{signed(row['difference'])} on {label}")
    if not told:
        return f"No benchmark has two {_SECOND} languages, so nothing is said of families."
    said = "; ".join(f"{', '.join(places)}: {word}" for word, places in told.items())
    return f"Gain of {_SECOND} languages minus that of {_FIRST} ones: {said}."


def _permutation(row: dict[str, Any]) -> str:
    least = row["smallest_p"]
    lowest = "" if least is None else f"at best {p_value(least)}"
    return lowest if row["p_languages"] is None else f"{p_value(row['p_languages'])} ({lowest})"


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


def _family_table(
    document: Document, families: Sequence[tuple[str, dict[str, Any]]], contrast: Contrast
) -> None:
    rows = []
    for label, row in families:
        seeds = row["seeds"] or {}
        unseen = "" if row["languages"] == "all" else ", unseen only"
        rows.append(
            [
                f"{label}{unseen}",
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


def _missing(
    document: Document,
    plans: Sequence[tuple[str, dict[str, Any] | None]],
    parts: Sequence[BenchmarkPart],
    study: StudyFile,
) -> None:
    """What would settle what is open: seeds, and languages of the second family."""
    known = [(name, seeds) for name, seeds in plans if seeds is not None and seeds["spread"] > 0]
    lines = _language_lines(parts, study)
    if not plans and not lines:
        return
    document.heading("What it would take to be sure", 3)
    if known:
        document.table(
            "The smallest true gain that so many seeds find with 80 % power (paired t at 5 %), by the upper "
            f"{100 * PLANNING_CONFIDENCE:.0f} % limit of the spread between seeds",
            ["not settled", "measured gain", "spread", *(f"{number} seeds" for number in _PLANNED_SEEDS)],
            [
                [
                    name,
                    signed(seeds["difference"]),
                    plain(seeds["spread"]),
                    *(
                        plain(detectable_gain(seeds["spread"], seeds["num_seeds"], number))
                        for number in _PLANNED_SEEDS
                    ),
                ]
                for name, seeds in known
            ],
        )
    if len(known) < len(plans):
        lines.insert(0, "How many seeds it takes is not known with one seed.")
    if lines:
        document.items(lines)


def _language_lines(parts: Sequence[BenchmarkPart], study: StudyFile) -> list[str]:
    """How many languages of the second family a claim about families takes, where there are too few."""
    needed = {}
    for contrast in study.primaries():
        for label, row in _families(parts, contrast):
            first, second = len(row["languages_a"]), len(row["languages_b"])
            name = label if row["languages"] == "all" else f"{label}, unseen only"
            if 2 / comb(first + second, second) > SIGNIFICANT or second < 2:
                least = next(k for k in range(2, 1000) if 2 / comb(first + k, k) <= SIGNIFICANT)
                needed[name] = f"{name} {least} (it has {second})"
    if not needed:
        return []
    return [
        f"A claim about families takes more {_SECOND} languages, beside as many {_FIRST} ones as there are. "
        f"At least: {'; '.join(needed.values())}."
    ]


def _limits(study: StudyFile, parts: Sequence[BenchmarkPart], findings: Sequence[Finding]) -> list[str]:
    lines = []
    own = [part.label for part in parts if part.facts["own_text_relevant"]]
    if own:
        lines.append(
            f"In {', '.join(own)} a question's own text is among the candidates: monolingual figures are "
            "trivial and not tested, and multilingual ones hold one free hit."
        )
    near = list(dict.fromkeys(one.label for one in findings if one.primary and one.near_chance))
    if near:
        lines.append(f"Near chance, so that no method does well: {', '.join(near)}.")
    lines.append(
        "Only the contrasts at the top were stated as the study's question; every other test is exploratory."
    )
    return [*lines, *study.notes]
