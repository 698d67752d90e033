"""Add sections that evaluations and studies share: matrices by family, tests, changes of cells, distances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.numbers import digits_of, p_value, plain, signed, span
from hbt_dist.comparison.significance import SIGNIFICANT
from hbt_dist.data.language_facts import describe
from hbt_dist.pages.document import Document
from hbt_dist.pages.matrix import Matrix

SETTING_TITLES = {
    "crosslingual": "cross-lingual",
    "monolingual": "monolingual",
    "multilingual": "multilingual",
    "one_target": "one target",
}
_METRICS = {
    "map": "mAP",
    "map@20": "mAP@20",
    "mrr": "MRR",
    "ndcg@10": "nDCG@10",
    "max_at_r": "Max@R",
    "mrc": "MRC",
    "mrc@100": "MRC@100",
}


def metric_title(name: str) -> str:
    """Return the title of a metric or a measure of bias."""
    return _METRICS.get(name, name.replace("_", " "))


def languages_by_family(codes: Iterable[str]) -> list[str]:
    """Return codes ordered by family, the family with most languages first."""
    codes = list(codes)
    sizes = Counter(describe(code).family for code in codes)
    return sorted(codes, key=lambda code: (-sizes[describe(code).family], describe(code).family, code))


def language_list(codes: Iterable[str]) -> str:
    """Format languages for people: ``German (de), Finnish (fi)``."""
    return ", ".join(f"{describe(code).name} ({code})" for code in codes)


def family_list(codes: Iterable[str]) -> str:
    """Format the families of some languages, each with its languages."""
    members: dict[str, list[str]] = {}
    for code in languages_by_family(codes):
        members.setdefault(describe(code).family, []).append(code)
    return "; ".join(f"{family}: {language_list(languages)}" for family, languages in members.items())


def moved(before: float | None, after: float | None, digits: int = 3) -> str:
    """Format a figure, with its value before a change if there is one: ``0.056 → 0.672``."""
    return plain(after, digits) if before is None else f"{plain(before, digits)} → {plain(after, digits)}"


def language_matrix(
    caption: str,
    codes: list[str],
    values: Any,
    *,
    scale_of: dict[str, Any] | None = None,
    high: float = 1.0,
    difference: bool = False,
    unseen: Collection[str] = (),
) -> Matrix:
    """Return a matrix with its languages ordered by family.

    Args:
        values: (L, L) nested lists in the order of `codes`, None for an empty cell.
        scale_of: results.json whose random order begins the scale, and whose training marks the languages.
        high: end of the scale.
        difference: whether the values are differences.
        unseen: languages without training data.
    """
    order = languages_by_family(codes)
    low = 0.0
    if scale_of is not None:
        chances = [scale_of["chance"][setting] for setting in ("crosslingual", "monolingual")]
        low = next((chance for chance in chances if chance is not None), 0.0)
        unseen = [code for code, row in scale_of["by_language"].items() if row["seen"] is False]
    return Matrix(
        caption,
        tuple(order),
        in_order(values, codes, order),
        difference,
        groups=tuple(describe(code).family for code in order),
        names=tuple(describe(code).name for code in order),
        low=low,
        high=high,
        low_name="random order" if low else "",
        hollow=tuple(code in unseen for code in order),
    )


def in_order(cells: Any, codes: list[str], order: list[str]) -> NDArray[np.float64]:
    """Return (L, L) cells, given in the order of `codes`, in another order."""
    indices = [codes.index(code) for code in order]
    return np.array(cells, np.float64)[np.ix_(indices, indices)]


def pair_heatmap(
    results: dict[str, Any], caption: str = "mAP of every language pair", high: float = 0.0
) -> Matrix:
    """Return the pair matrix of an evaluation; its scale ends at `high` or its largest value."""
    pairs = results["pair_matrix"]
    cells = pairs["metrics"]["map"]
    return language_matrix(
        caption, pairs["languages"], cells, scale_of=results, high=max(high, largest_cell(results))
    )


def largest_cell(results: dict[str, Any]) -> float:
    """Return the largest mAP of a language pair; 0 without any."""
    cells = (cell for row in results["pair_matrix"]["metrics"]["map"] for cell in row)
    return max((cell for cell in cells if cell is not None), default=0.0)


def add_tests(
    document: Document,
    comparison: dict[str, Any],
    about: str = "",
    *,
    corrected: str = "Holm over this table",
    named: bool = True,
) -> None:
    """Add the table of a comparison's tests, including those over seeds.

    Args:
        corrected: description of the correction of the p values.
        named: whether each row names its system.
    """
    over_seeds = any(row["seeds"] for row in comparison["tests"])
    rows = []
    for row in comparison["tests"]:
        digits = digits_of(row["metric"])
        tested = not row["trivial"]
        figure = f"{SETTING_TITLES[row['setting']]} {metric_title(row['metric'])}"
        cells = [
            f"{row['system']}: {figure}" if named else figure,
            plain(row["macro_system"], digits),
            signed(row["difference"], digits),
            span(row["low"], row["high"], digits) if tested else "trivial",
            signed(row["effect_size"], 2) if tested else "-",
            p_value(row["p_holm"]),
        ]
        if over_seeds:
            seeds = row["seeds"] if tested and row["seeds"] else {}
            cells += [
                span(seeds.get("low"), seeds.get("high"), digits),
                p_value(seeds.get("p_holm")),
            ]
        rows.append(cells)
    baseline = next(iter(comparison["folders"]))
    over = f"over {comparison['resampled']}s"
    document.table(
        f"{about}Change against {baseline}, means over cells: 95 % interval and p {over} (paired "
        f"randomisation, {corrected})" + ("; the same over seeds (paired t)" if over_seeds else ""),
        [
            "system and figure" if named else "figure",
            "value",
            "change",
            f"interval {over}",
            "d",
            f"p {over}",
            *(["interval over seeds", "p over seeds"] if over_seeds else []),
        ],
        rows,
    )
    if any(row["trivial"] for row in comparison["tests"]):
        document.paragraph(
            "Trivial: a question's own text is among its candidates, so in one language it finds itself. In "
            "the pool of all languages that is one more hit, nearly always at rank 1."
        )


def add_cell_changes(
    document: Document, comparison: dict[str, Any], system: str, file: str, *, about: str = ""
) -> None:
    """Add the difference of the pair matrices; the rarer of certain and uncertain changes has a sign."""
    p_values = comparison["cell_p"][system]
    tested = [p for row in p_values for p in row if p is not None]
    certain = sum(p < SIGNIFICANT for p in tested)
    codes, baseline = comparison["benchmark"]["languages"], next(iter(comparison["folders"]))
    matrix = language_matrix(
        f"{about}{system} minus {baseline}, mAP",
        codes,
        comparison["cell_gain"][system],
        difference=True,
        unseen=comparison["pairs"]["unseen"][system],
    )
    p = in_order(p_values, codes, list(matrix.languages))
    if certain > len(tested) / 2:
        marks, mark, marked = p >= SIGNIFICANT, "~", "uncertain change: p at least 0.05"
    else:
        marks, mark, marked = p < SIGNIFICANT, "*", "certain change: p < 0.05"
    matrix = replace(matrix, marks=marks, mark=mark, marked=marked)
    document.paragraph(
        f"{certain} of {len(tested)} language pairs differ with p < 0.05 (paired randomisation over "
        f"{comparison['resampled']}s, corrected for the number of pairs by step-down maxT). "
        f"Blue: better than {baseline}; orange: worse. {matrix.finding[0].upper()}{matrix.finding[1:]}."
    )
    document.matrix(matrix, file, numbers=False)


def add_distances(
    document: Document, comparison: dict[str, Any], about: str = "", *, named: bool = True
) -> None:
    """Add whether the cross-lingual gain grows with the distance of the languages: a row for each distance.

    Args:
        named: whether each row names its system.
    """
    parts = comparison["typology"]
    effects = [(name, effect) for name, part in parts.items() for effect in part["distances"]]
    rows = [
        [
            f"{name}: {effect['source']}" if named else effect["source"],
            signed(effect["slope"]),
            p_value(effect["p_holm"]),
            span(effect["mixed_low"], effect["mixed_high"]),
        ]
        for name, effect in effects
        if effect["p_holm"] is not None
    ]
    notes = [f"{effect['source']}: {effect['verdict']}" for _, effect in effects if effect["p_holm"] is None]
    if rows:
        document.table(
            f"{about}Does the cross-lingual gain over {next(iter(comparison['folders']))} grow with the "
            "distance of the languages?",
            ["system and distance" if named else "distance", "slope", "p", "95 % interval"],
            rows,
        )
        document.paragraph(
            "Slope: gain per unit of distance, with the means of the languages removed. p: permutation of "
            "the languages, corrected for the number of distances (Holm). Interval: slope of a mixed model."
        )
    if notes:
        document.items(["No test of " + note for note in dict.fromkeys(notes)])
