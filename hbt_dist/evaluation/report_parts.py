"""What reports of evaluations and studies share: matrices ordered by family, tests, changes of cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

from hbt_dist.evaluation.languages import describe
from hbt_dist.pages.document import Document
from hbt_dist.pages.matrix import Matrix

SIGNIFICANT = 0.05


def languages_by_family(codes: Iterable[str]) -> list[str]:
    """Codes ordered by family, the family with most languages first."""
    found = list(codes)
    sizes = Counter(describe(code).family for code in found)
    return sorted(found, key=lambda code: (-sizes[describe(code).family], describe(code).family, code))


def language_matrix(
    caption: str, codes: list[str], values: Any, p_values: Any = None, *, difference: bool = False
) -> Matrix:
    """A matrix with its languages ordered by family.

    Args:
        values: (L, L) nested lists in the order of `codes`, None where a cell is empty.
        p_values: (L, L) likewise; cells below .05 are marked.
    """
    order = languages_by_family(codes)
    place = [codes.index(code) for code in order]

    def ordered(cells: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array(cells, np.float64)[np.ix_(place, place)]

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
    """The pair matrix of an evaluation."""
    benchmark, found = results["benchmark"], results["pair_matrix"]
    caption = f"{benchmark['name']}: mAP, candidates of one language"
    return language_matrix(caption, found["languages"], found["metrics"]["map"])


def add_tests(document: Document, comparison: dict[str, Any], about: str = "") -> None:
    """The table of a comparison's tests, with those over seeds where there are any."""
    over_seeds = any("seeds" in row for row in comparison["tests"])
    rows = []
    for row in comparison["tests"]:
        digits = 1 if row["metric"] == "rank_distance" else 4
        cells = [
            f"{row['system']}: {row['setting']} {row['metric'].replace('_', ' ')}",
            f"{row['macro_system'] - row['macro_baseline']:+.{digits}f}",
            f"{row['difference']:+.{digits}f}",
            f"[{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]",
            f"{row['effect_size']:+.2f}",
            f"{row['p_holm']:.4f}",
        ]
        if over_seeds:
            cells.append(f"{row['seeds']['p']:.4f}" if row.get("seeds") else "-")
        rows.append(cells)
    baseline = next(iter(comparison["folders"]))
    document.table(
        f"{about}Change against {baseline}: 95 % interval and p over {comparison['resampled']}s (paired "
        f"randomisation, Holm over this table){', p over seeds (Welch)' if over_seeds else ''}",
        [
            "system and figure",
            "change (over cells)",
            "change (over questions)",
            "interval",
            "d",
            "p (Holm)",
            *["p (seeds)"] * over_seeds,
        ],
        rows,
    )


def add_cell_changes(
    document: Document, comparison: dict[str, Any], system: str, file: str, *, about: str = ""
) -> None:
    """The difference of the pair matrices, with stars where a cell's change is significant."""
    p_values = comparison["cell_p"][system]
    tested = [p for row in p_values for p in row if p is not None]
    baseline = next(iter(comparison["folders"]))
    matrix = language_matrix(
        f"{about}{system} minus {baseline}, mAP; * p < .05",
        comparison["benchmark"]["languages"],
        comparison["cell_gain"][system],
        p_values,
        difference=True,
    )
    document.matrix(matrix, file, numbers=False)
    document.paragraph(
        f"{sum(p < SIGNIFICANT for p in tested)} of {len(tested)} cells differ (*: p < .05, paired "
        f"randomisation over {comparison['resampled']}s, step-down maxT over the cells). "
        f"Blue: better than {baseline}; orange: worse."
    )


def add_distance_verdicts(document: Document, comparison: dict[str, Any]) -> None:
    """Whether the cross-lingual gain grows with the distance of the languages."""
    document.paragraph("Does the cross-lingual gain grow with the distance of the languages?")
    document.items(
        [
            f"{name}, {effect['source']} distance: {effect['verdict']}"
            for name, part in comparison["typology"].items()
            for effect in part["distances"]
        ]
    )
