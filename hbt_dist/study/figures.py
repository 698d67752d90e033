"""The figures of a study's report: figures by method, gains by family, the gain of every cell."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hbt_dist.study.tables import SETTINGS

#: Okabe and Ito's colours, told apart by colour-blind readers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def draw_summary(table: pd.DataFrame, path: Path, title: str) -> None:
    """Mean mAP of each method in the three settings, with the standard deviation over seeds."""
    figure = Figure(figsize=(7, 0.45 * len(table) + 1.6), layout="constrained")
    axes = figure.subplots(1, len(SETTINGS), sharey=True)
    rows = np.arange(len(table))
    for colour, setting, axis in zip(COLOURS, SETTINGS, axes, strict=False):
        axis.barh(rows, table[setting], xerr=table[f"{setting}_sd"].fillna(0), color=colour, capsize=2)
        axis.set_title(f"{setting} mAP", fontsize=9)
        axis.set_yticks(rows, table["method"], fontsize=8)
        axis.invert_yaxis()
        axis.tick_params(axis="x", labelsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def draw_families(gains: Mapping[str, pd.DataFrame], path: Path, title: str) -> None:
    """Gain over the baseline per pair of families: points with intervals, one colour per method."""
    pairs = sorted({pair for frame in gains.values() for pair in frame["pair"]})
    figure = Figure(figsize=(7, 0.35 * len(pairs) * max(1, len(gains)) + 1.4), layout="constrained")
    axis = figure.subplots()
    for number, (method, frame) in enumerate(gains.items()):
        places = [pairs.index(pair) + 0.8 * (number + 0.5) / len(gains) - 0.4 for pair in frame["pair"]]
        error = [frame["gain"] - frame["low"], frame["high"] - frame["gain"]]
        marker = "osD^vPX*"[number % 8]
        axis.errorbar(
            frame["gain"], places, xerr=error, fmt=marker, color=COLOURS[number % 4], label=method, capsize=2
        )
    axis.axvline(0, color="#444", linewidth=1)
    axis.set_yticks(range(len(pairs)), pairs, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("gain in cross-lingual mAP over the baseline, 95 % interval over questions", fontsize=8)
    axis.legend(fontsize=8, loc="best")
    axis.set_title(title, fontsize=10)
    _save(figure, path)


def draw_gain_matrix(cells: list[list[float | None]], languages: list[str], path: Path, title: str) -> None:
    """Gain of every (question language, candidate language) cell; blue is better, red is worse."""
    values = np.array([[np.nan if value is None else value for value in row] for row in cells], np.float64)
    most = float(np.nanmax(np.abs(values))) or 1.0
    size = 0.42 * len(languages) + 2
    figure = Figure(figsize=(size, size), layout="constrained")
    axis = figure.subplots()
    image: Any = axis.imshow(values, cmap="RdBu", vmin=-most, vmax=most)
    axis.set_xticks(range(len(languages)), languages, fontsize=8)
    axis.set_yticks(range(len(languages)), languages, fontsize=8)
    axis.set_xlabel("candidate language")
    axis.set_ylabel("question language")
    if len(languages) <= 22:
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.6 * most else "#1a1a1a"
                axis.text(j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=6, color=colour)
    figure.colorbar(image, shrink=0.7)
    axis.set_title(f"{title} (x 100)", fontsize=10)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": "hbt_dist"})
