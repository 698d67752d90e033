"""Draw language bias, distance of languages and gains of groups for evaluation reports.

Drawings are PNG contents; each `..._finding` describes a drawing in words, as its alternative text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hbt_dist.common.numbers import plain, signed
from hbt_dist.comparison.typology import language_distances
from hbt_dist.data.language_facts import describe
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
    ("language_preference_rate", "same language first"),
    ("mrc", "MRC: rank correlation"),
)


def bias_by_language(results: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return the measures of language bias by language: measure -> language -> value."""
    measures = {name: entry["by_language"] for name, entry in results["bias"].items()}
    if results["ranking_consistency"] is not None:
        measures["mrc"] = results["ranking_consistency"]["mrc_by_language"]
    return measures


def draw_bias(
    results: dict[str, Any], languages: Sequence[str], baseline: dict[str, Any] | None
) -> bytes | None:
    """Draw the bias by question language: a panel for each measure; hollow marks are the baseline's.

    Returns:
        None if the benchmark has no measure of bias.
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
            axes.hlines(rows, values, before, color=GREY, linewidth=0.7, zorder=1)
            axes.plot(before, rows, "o", color=VERMILLION, markerfacecolor="none", markersize=4.5)
        if name == "language_preference_rate":
            neutral = _floats(new["language_preference_neutral"], languages)
            axes.plot(neutral, rows, "|", color="black", markersize=8, label="neutral")
        tidy(axes)
        axes.set_title(title, fontsize=9)
        axes.set_yticks(rows, [describe(code).name for code in languages], fontsize=7.5, parse_math=False)
        axes.tick_params(axis="x", labelsize=7.5)
        axes.locator_params(axis="x", nbins=4)  # long numbers must not touch
        axes.set_ylim(len(languages) - 0.5, -0.5)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return png(figure)


def bias_finding(results: dict[str, Any], languages: Sequence[str], baseline: dict[str, Any] | None) -> str:
    """Return mean and extreme languages of each panel in words, with the baseline's mean."""
    new = bias_by_language(results)
    old = bias_by_language(baseline) if baseline is not None else {}
    panels = []
    for name, title in _BIAS_PANELS:
        known = [code for code in languages if new.get(name, {}).get(code) is not None]
        if not known:
            continue
        values = _floats(new[name], known)
        digits = 1 if name in ("rank_distance", "max_at_r") else 3
        extremes = int(values.argmin()), int(values.argmax())
        ends = [f"{plain(float(values[i]), digits)} ({known[i]})" for i in extremes]
        text = f"{title}: mean {plain(float(values.mean()), digits)}, from {ends[0]} to {ends[1]}"
        if name in old:
            before = float(np.nanmean(_floats(old[name], known)))
            text += f", baseline mean {plain(before, digits)}"
        if name == "language_preference_rate":
            neutral = float(np.nanmean(_floats(new["language_preference_neutral"], known)))
            text += f", neutral {plain(neutral, digits)}"
        panels.append(text)
    return "; ".join(panels)


def draw_distances(values: NDArray[np.float64], languages: Sequence[str], label: str) -> bytes | None:
    """Draw every cross-lingual cell against the distance of its languages, a panel for each distance.

    Args:
        values: (L, L) mAP or its change.
        label: of the values.

    Returns:
        None if no pair has a value.
    """
    same_family = language_distances(languages, "family") == 0.0
    pairs = ~np.eye(len(languages), dtype=bool) & ~np.isnan(values)
    if not pairs.any():
        return None
    figure = new_figure(5.0, 1.9 * len(PLOTTED_DISTANCES) + 0.3)
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
        axes.locator_params(axis="x", nbins=8)
        axes.locator_params(axis="y", nbins=5)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, fontsize=7.5, frameon=False)
    return png(figure)


def draw_gains(gains: Mapping[str, pd.DataFrame], title: str) -> bytes:
    """Draw the gain of each group: points with intervals, groups in the order of the rows.

    Up to 25 systems differ in colour and shape.

    Args:
        gains: system -> rows from `group_gains`.
    """
    groups = list(dict.fromkeys(name for frame in gains.values() for name in frame["group"]))
    several = len(gains) > 1
    columns = 2 if max(map(len, gains)) < 34 else 1
    height = max(0.3, 0.16 * (len(gains) + 1)) * len(groups) + 1.1
    height += 0.17 * -(-len(gains) // columns) if several else 0
    figure, axes = single_axes(6.0 if several else 5.0, height)
    for number, (system, frame) in enumerate(gains.items()):
        shift = 0.85 * ((number + 0.5) / len(gains) - 0.5)
        axes.errorbar(
            frame["gain"],
            [groups.index(name) + shift for name in frame["group"]],
            xerr=[frame["gain"] - frame["low"], frame["high"] - frame["gain"]],
            fmt=MARKERS[(number + number // len(SERIES)) % len(MARKERS)],
            color=SERIES[number % len(SERIES)],
            label=system,
            markersize=4.5,
            capsize=2,
        )
    axes.axvline(0, color="#1b1b1b", linewidth=1)
    axes.set_yticks(range(len(groups)), groups, fontsize=8, parse_math=False)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(axis="x", labelsize=8)
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("gain in cross-lingual mAP, 95 % interval over questions", fontsize=8)
    if several:
        axes.grid(visible=False, axis="y")
        for row in range(1, len(groups)):
            axes.axhline(row - 0.5, color=GREY, linewidth=0.7)
        figure.legend(loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    axes.set_title(title, fontsize=10, parse_math=False)
    return png(figure)


def gains_finding(gains: Mapping[str, pd.DataFrame]) -> str:
    """Return the extreme gains and the numbers of intervals above and below zero in words."""
    rows = [
        (f"{name}, {row['group']}" if len(gains) > 1 else row["group"], row)
        for name, frame in gains.items()
        for row in frame.to_dict("records")
    ]
    ends = [choose(rows, key=lambda item: item[1]["gain"]) for choose in (min, max)]
    low, high = (f"{signed(row['gain'])} ({name})" for name, row in ends)
    known = [row for _, row in rows if np.isfinite([row["low"], row["high"]]).all()]
    if not known:
        return f"from {low} to {high}; no interval, because the questions are few."
    above, below = sum(row["low"] > 0 for row in known), sum(row["high"] < 0 for row in known)
    return f"from {low} to {high}; {above} of {len(known)} intervals are above 0, {below} below."


def _floats(values: dict[str, float | None], languages: Sequence[str]) -> NDArray[np.float64]:
    return np.array([np.nan if values.get(code) is None else values[code] for code in languages], np.float64)
