"""Add sections that evaluations and studies share: matrices by family, tests, changes of cells, distances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

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


def family_list(codes: Iterable[str]) -> str:
    """Format the families of some languages, each with its codes."""
    members: dict[str, list[str]] = {}
    for code in languages_by_family(codes):
        members.setdefault(describe(code).family, []).append(code)
    return "; ".join(f"{family} ({', '.join(languages)})" for family, languages in members.items())


def language_matrix(
    caption: str, codes: list[str], values: Any, p_values: Any = None, *, difference: bool = False
) -> Matrix:
    """Return a matrix with its languages ordered by family.

    Args:
        values: (L, L) nested lists in the order of `codes`, None for an empty cell.
        p_values: (L, L) likewise; cells below 0.05 get a star.
    """
    order = languages_by_family(codes)
    indices = [codes.index(code) for code in order]

    def ordered(cells: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array(cells, np.float64)[np.ix_(indices, indices)]

    return Matrix(
        caption,
        tuple(order),
        ordered(values),
        difference,
        None if p_values is None else ordered(p_values) < SIGNIFICANT,
        tuple(describe(code).family for code in order),
        tuple(describe(code).name for code in order),
    )


def pair_heatmap(results: dict[str, Any]) -> Matrix:
    """Return the pair matrix of an evaluation."""
    pairs = results["pair_matrix"]
    caption = f"{results['benchmark']['name']}: mAP, candidates of one language"
    return language_matrix(caption, pairs["languages"], pairs["metrics"]["map"])


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
    """Add the difference of the pair matrices, with stars at significant changes."""
    p_values = comparison["cell_p"][system]
    tested = [p for row in p_values for p in row if p is not None]
    baseline = next(iter(comparison["folders"]))
    matrix = language_matrix(
        f"{about}{system} minus {baseline}, mAP; * p < 0.05",
        comparison["benchmark"]["languages"],
        comparison["cell_gain"][system],
        p_values,
        difference=True,
    )
    document.paragraph(
        f"{sum(p < SIGNIFICANT for p in tested)} of {len(tested)} cells differ (*: p < 0.05, paired "
        f"randomisation over {comparison['resampled']}s, step-down maxT over the cells). "
        f"Blue: better than {baseline}; orange: worse."
    )
    document.matrix(matrix, file, numbers=False)


def add_distances(document: Document, comparison: dict[str, Any], about: str = "") -> None:
    """Add whether the cross-lingual gain grows with the distance of the languages: a row for each system."""
    parts = comparison["typology"]
    sources = [effect["source"] for effect in next(iter(parts.values()))["distances"]] if parts else []
    rows = [
        [name, *(_distance_cell(effect) for effect in part["distances"])]
        for name, part in parts.items()
        if any(effect["p_holm"] is not None for effect in part["distances"])
    ]
    notes = [
        f"{effect['source']}: {effect['verdict']}"
        for part in parts.values()
        for effect in part["distances"]
        if effect["p_holm"] is None
    ]
    baseline = next(iter(comparison["folders"]))
    if rows:
        document.table(
            f"{about}Does the cross-lingual gain over {baseline} grow with the distance of the languages? "
            "Slope per unit of distance (means of the languages removed), p of a permutation of the "
            f"languages (Holm over the {len(sources)} distances; * p < 0.05), 95 % interval of a mixed "
            "model's slope",
            ["system", *sources],
            rows,
        )
    if notes:
        document.items(["No test of " + note for note in dict.fromkeys(notes)])


def _distance_cell(effect: dict[str, Any]) -> str:
    if effect["p_holm"] is None:
        return "-"
    star = "*" if effect["p_holm"] < SIGNIFICANT else ""
    model = span(effect["mixed_low"], effect["mixed_high"], 3)
    return f"{signed(effect['slope'], 3)}{star} (p {p_value(effect['p_holm'])}; {model})"
