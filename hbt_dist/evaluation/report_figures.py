"""The drawings of evaluation reports: language bias, distance of languages, gains of groups. PNG contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hbt_dist.evaluation.typology import language_distances
from hbt_dist.pages.figures import (
    BLUE,
    GREY,
    MARKERS,
    ORANGE,
    SERIES,
    VERMILLION,
    new_figure,
    png,
    single_axes,
    tidy,
)

PLOTTED_DISTANCES = ("syntax", "grambank", "geography")
_BIAS_PANELS = (
    ("rank_distance", "rank distance"),
    ("max_at_r", "Max@R: worst rank"),
    ("language_preference_rate", "own language first"),
    ("mrc", "MRC: rank correlation"),
)


def bias_by_language(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Measures of the language bias that have a value for each language: measure -> language -> value."""
    found = {name: entry["by_language"] for name, entry in results["bias"].items()}
    if results["ranking_consistency"] is not None:
        found["mrc"] = results["ranking_consistency"]["mrc_by_language"]
    return found


def draw_bias(
    results: dict[str, Any], languages: Sequence[str], baseline: dict[str, Any] | None
) -> bytes | None:
    """Bias by question language: a panel for each measure; hollow marks are the baseline's.

    Returns:
        None where the benchmark says nothing of bias.
    """
    new = bias_by_language(results)
    old = bias_by_language(baseline) if baseline is not None else {}
    panels = [(name, title) for name, title in _BIAS_PANELS if name in new]
    if not panels:
        return None
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    figure = new_figure(5.0, lines * (0.155 * len(languages) + 0.9))
    rows = np.arange(len(languages))
    for axes, (name, title) in zip(
        figure.subplots(lines, columns, sharey=True, squeeze=False).flat, panels, strict=False
    ):
        values = _floats(new[name], languages)
        axes.plot(values, rows, "o", color=BLUE, markersize=4.5, label="this evaluation")
        if name in old:
            before = _floats(old[name], languages)
            axes.hlines(rows, values, before, color=GREY, linewidth=0.7)
            axes.plot(before, rows, "o", color=VERMILLION, markerfacecolor="white", markersize=4.5)
        if name == "language_preference_rate":
            neutral = _floats(new["language_preference_neutral"], languages)
            axes.plot(neutral, rows, "|", color="black", markersize=8, label="neutral")
        tidy(axes)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(rows, languages, fontsize=7.5, parse_math=False)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_ylim(len(languages) - 0.5, -0.5)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return png(figure)


def draw_distances(values: NDArray[np.float64], languages: Sequence[str], label: str) -> bytes | None:
    """Every cross-lingual cell against the distance of its languages, a panel for each distance.

    Args:
        values: (L, L) mAP or its change.
        label: what they are.

    Returns:
        None where no pair has a value.
    """
    same_family = language_distances(languages, "family") == 0.0
    pairs = ~np.eye(len(languages), dtype=bool) & ~np.isnan(values)
    if not pairs.any():
        return None
    figure = new_figure(5.0, 1.9 * len(PLOTTED_DISTANCES))
    panels = figure.subplots(len(PLOTTED_DISTANCES), 1)
    for axes, source in zip(panels, PLOTTED_DISTANCES, strict=True):
        distance = language_distances(languages, source)
        for mask, color, marker, name in (
            (pairs & ~same_family, BLUE, "o", "two families"),
            (pairs & same_family, ORANGE, "^", "one family"),
        ):
            axes.plot(
                distance[mask], values[mask], marker, color=color, markersize=3.5, alpha=0.75, label=name
            )
        tidy(axes)
        axes.set_xlabel(f"{source} distance", fontsize=8.5)
        axes.set_ylabel(label, fontsize=8.5)
        axes.tick_params(labelsize=7.5)
    panels[0].legend(fontsize=7.5)
    return png(figure)


def draw_gains(gains: Mapping[str, pd.DataFrame], title: str) -> bytes:
    """Gain of each group: points with intervals, one colour and shape for each system.

    Args:
        gains: system -> rows of `group_gains`.
    """
    groups = sorted({name for frame in gains.values() for name in frame["group"]})
    height = 0.3 * len(groups) * max(1, len(gains)) + 1.4
    figure, axes = single_axes(6.0 if len(gains) > 1 else 5.0, height)
    for number, (system, frame) in enumerate(gains.items()):
        places = [groups.index(name) + 0.8 * (number + 0.5) / len(gains) - 0.4 for name in frame["group"]]
        axes.errorbar(
            frame["gain"],
            places,
            xerr=[frame["gain"] - frame["low"], frame["high"] - frame["gain"]],
            fmt=MARKERS[number % len(MARKERS)],
            color=SERIES[number % len(SERIES)],
            label=system,
            capsize=2,
        )
    axes.axvline(0, color="#444444", linewidth=1)
    axes.set_yticks(range(len(groups)), groups, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlabel("gain in cross-lingual mAP, 95 % interval over questions", fontsize=8)
    if len(gains) > 1:
        axes.legend(fontsize=8, loc="best")
    axes.set_title(title, fontsize=10, parse_math=False)
    return png(figure)


def _floats(values: dict[str, float | None], languages: Sequence[str]) -> NDArray[np.float64]:
    return np.array([np.nan if values.get(code) is None else values[code] for code in languages], np.float64)
