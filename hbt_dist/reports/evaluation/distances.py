"""Add the section on the distance of languages: does mAP, or its change, depend on it?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from hbt_dist.common.numbers import p_clause, plain
from hbt_dist.comparison.significance import SIGNIFICANT
from hbt_dist.comparison.typology import distance_effects
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.change import Change
from hbt_dist.reports.evaluation.figures import PLOTTED_DISTANCES, draw_distances
from hbt_dist.reports.evaluation.sections import add_distances

_DISTANCES = {
    "syntax": "difference of grammar by 103 features, such as word order, 0 to 1 (URIEL)",
    "grambank": "a second opinion: share of differing grammatical features, 0 to 1 (Grambank)",
    "geography": "distance of the languages' regions, 1 is half the equator",
    "means of the languages removed": "a language that is hard in every pair does not count as distant",
}


def add_distance_section(document: Document, results: dict[str, Any], change: Change | None) -> None:
    """Add slopes and scatter plots; with a baseline also those of the change."""
    document.heading("Distance of languages")
    codes = results["pair_matrix"]["languages"]
    cells = np.array(results["pair_matrix"]["metrics"]["map"], np.float64)
    picture = draw_distances(cells, codes, "mAP")
    if picture is None:
        document.paragraph(
            "There is one language only."
            if len(codes) == 1
            else "No effect: no question has a relevant candidate in another language."
        )
        return
    effects = [asdict(effect) for effect in distance_effects(cells, codes, PLOTTED_DISTANCES, mixed=False)]
    if not any(effect["num_permutations"] for effect in effects):
        nearest = max(effects, key=lambda effect: len(effect["languages"]))
        document.paragraph(f"No test: {nearest['verdict']}.")
        return
    lines = [_distance_line(effect) for effect in effects]
    document.items(lines)
    document.meaning(_DISTANCES)
    if change is not None:
        add_distances(document, change.comparison, named=False)
    with document.columns():
        document.figure(
            "figures/distance.png",
            picture,
            "mAP of every pair of two languages against their distance",
            f"Scatter of cross-lingual mAP against distance. {'. '.join(lines)}",
        )
        if change is not None:
            _add_change_figure(document, change, codes)


def _add_change_figure(document: Document, change: Change, codes: list[str]) -> None:
    gain = np.array(change.comparison["cell_gain"][change.system], np.float64)
    picture = draw_distances(gain, codes, "change in mAP")
    if picture is None:
        return
    lines = [
        _distance_line(effect, "the change")
        for effect in change.comparison["typology"][change.system]["distances"]
        if effect["source"] in PLOTTED_DISTANCES
    ]
    document.figure(
        "figures/distance_gain.png",
        picture,
        f"Change in mAP against {change.name} and the distance of the languages",
        f"Scatter of the change in cross-lingual mAP against distance. {'. '.join(lines)}",
    )


def _distance_line(effect: dict[str, Any], what: str = "mAP") -> str:
    """Describe the slope of a figure over a distance; `effect` is a `DistanceEffect` as a dictionary."""
    if not effect["num_permutations"]:
        return f"{effect['source']}: {effect['verdict']}"
    chance = "" if effect["p_holm"] < SIGNIFICANT else ", possibly by chance"
    return (
        f"{effect['source']}: {what} {'rises' if effect['slope'] > 0 else 'falls'} by "
        f"{plain(abs(effect['slope']), 3)} per unit of distance{chance} ({p_clause(effect['p_holm'])}, "
        f"{len(effect['languages'])} languages, means of the languages removed)"
    )
