"""The report's figures, PNG and SVG: fronts, parameter curves, importance.

Shapes say what colours say, so the figures also work in grey.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hbt_dist.analysis.overview import Analysis
from hbt_dist.reports.pages.figures import (
    BLUE,
    GREY,
    MARKERS,
    SERIES,
    VERMILLION,
    new_figure,
    single_axes,
    tidy,
)


def draw_figures(analysis: Analysis, folder: Path) -> list[str]:
    """Write every figure into an existing folder; returns the file names."""
    written: list[str] = []
    for x, y in analysis.pairs:
        written += _save(_front(analysis, x, y), folder, f"front_{file_part(x)}_{file_part(y)}")
    names: set[str] = set()
    for name in analysis.results.parameters:
        stem = f"curve_{file_part(name)}"
        while stem in names:  # two keys may differ in a character that file names cannot hold
            stem += "_"
        names.add(stem)
        rows = analysis.curves[analysis.curves["parameter"] == name]
        if len(rows):
            written += _save(_curve(analysis, name, rows), folder, stem)
    if analysis.sensitivity["importance"].notna().any():
        written += _save(_importance(analysis), folder, "importance")
    return written


def file_part(name: str) -> str:
    """A name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)


def label(name: str) -> str:
    """An objective's name for people."""
    return name.replace("_", " ")


def axis_scale(values: pd.Series[Any], logarithm: bool) -> str:
    """How values of a parameter are put on an axis: "linear", "log" or "choice"."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return "choice"
    return "log" if logarithm else "linear"


def _front(analysis: Analysis, x: str, y: str) -> Figure:
    figure, axes = single_axes(6.0, 4.4)
    every, front = analysis.candidates, analysis.front
    axes.scatter(
        every[x], every[y], s=16, facecolors="none", edgecolors=GREY, linewidths=0.8, label="checkpoints"
    )
    axes.errorbar(
        front[x],
        front[y],
        xerr=front[f"{x}_std"].fillna(0.0),
        yerr=front[f"{y}_std"].fillna(0.0),
        fmt="o",
        color=BLUE,
        ecolor="#9DC6E0",
        elinewidth=1,
        markersize=6,
        label="front over all objectives (bars: seed std)",
    )
    if analysis.knee is not None:
        knee = analysis.knee
        axes.plot([knee[x]], [knee[y]], "*", color=VERMILLION, ms=15, mec="black", mew=0.7, label="knee")
    _describe(axes, analysis, x, y)
    axes.legend(fontsize=8, framealpha=0.9)
    return figure


def _describe(axes: Axes, analysis: Analysis, x: str, y: str) -> None:
    better = {"max": "higher is better", "min": "lower is better"}
    axes.set_xlabel(f"{label(x)} ({better[analysis.results.objectives[x]]})")
    axes.set_ylabel(f"{label(y)} ({better[analysis.results.objectives[y]]})")
    axes.set_title(f"{analysis.results.name}: front", parse_math=False)


def _curve(analysis: Analysis, parameter: str, rows: pd.DataFrame) -> Figure:
    objectives = list(analysis.results.objectives)
    figure = new_figure(6.0, 2.4 * len(objectives) + 0.6)
    panels = figure.subplots(len(objectives), 1, sharex=True, squeeze=False)[:, 0]
    values = pd.Series(sorted(rows["value"].unique().tolist()), dtype=object)
    scale = axis_scale(values, parameter in analysis.results.log_parameters)
    place = {value: i if scale == "choice" else float(value) for i, value in enumerate(values)}
    for i, (axes, name) in enumerate(zip(panels, objectives, strict=True)):
        part = rows[rows["objective"] == name]
        at = np.array([place[value] for value in part["value"]], np.float64)
        color = SERIES[i % len(SERIES)]
        axes.vlines(at, part["min"], part["max"], color=color, alpha=0.35, linewidth=5)
        axes.errorbar(
            at,
            part["mean"],
            yerr=part["seed_std"].fillna(0.0),
            fmt=MARKERS[i % len(MARKERS)] + ("" if scale == "choice" else "-"),
            color=color,
            capsize=3,
            markersize=5,
        )
        axes.set_ylabel(label(name))
        tidy(axes)
    last = panels[-1]
    if scale == "log":
        last.set_xscale("log")
    elif scale == "choice":
        last.set_xticks(range(len(values)), [str(value) for value in values], rotation=20, parse_math=False)
    last.set_xlabel(f"{parameter}   (whiskers: seed std, bars: all runs)", parse_math=False)
    figure.suptitle(analysis.results.name, parse_math=False, fontsize=11)
    return figure


def _importance(analysis: Analysis) -> Figure:
    table = analysis.sensitivity.dropna(subset="importance")
    parameters = list(dict.fromkeys(table["parameter"]))
    objectives = list(dict.fromkeys(table["objective"]))
    figure, axes = single_axes(6.4, 1.2 + 0.28 * len(parameters) * (len(objectives) + 1))
    height = 1 / (len(objectives) + 1)
    for i, objective in enumerate(objectives):
        rows = table[table["objective"] == objective].set_index("parameter").loc[parameters]
        at = np.arange(len(parameters)) + (i - (len(objectives) - 1) / 2) * height
        mean = rows["importance"].to_numpy(np.float64)
        spread = np.abs(np.stack([mean - rows["low"], rows["high"] - mean]).astype(np.float64))
        hatch = ("", "//", "..", "xx", "\\\\")[i % 5]
        axes.barh(
            at,
            mean,
            height * 0.9,
            xerr=spread,
            color=SERIES[i % len(SERIES)],
            hatch=hatch,
            edgecolor="white",
            ecolor="#333333",
            capsize=2,
            label=label(objective),
        )
    axes.set_yticks(range(len(parameters)), parameters, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance explained alone (bars: bootstrap 95 %)")
    axes.legend(fontsize=8)
    return figure


def _save(figure: Figure, folder: Path, stem: str) -> list[str]:
    figure.savefig(folder / f"{stem}.png")
    with matplotlib.rc_context({"svg.hashsalt": stem, "svg.fonttype": "none"}):
        figure.savefig(folder / f"{stem}.svg", metadata={"Date": None})
    return [f"{stem}.png", f"{stem}.svg"]
