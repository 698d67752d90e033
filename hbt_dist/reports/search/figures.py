"""Draw the figures of a search: fronts, parameter curves, importance.

Shapes repeat what colours show, so the figures also work in grey.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from hbt_dist.analysis.overview import Analysis, objective_title
from hbt_dist.pages.figures import (
    BLUE,
    GREY,
    MARKERS,
    SERIES,
    VERMILLION,
    new_figure,
    single_axes,
    tidy,
)

_BETTER = {"max": "higher is better", "min": "lower is better"}


def draw_front(analysis: Analysis, x: str, y: str) -> Figure:
    """Draw all checkpoints over two objectives, the front and the knee point."""
    figure, axes = single_axes(5.4, 3.9)
    every, front, knee = analysis.candidates, analysis.front, analysis.knee
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
        label="front (bars: seed std)",
    )
    for _, row in front.iterrows():
        number = f"{row['point']:.0f}"
        axes.annotate(number, (row[x], row[y]), (4, 4), textcoords="offset points", fontsize=7)
    if knee is not None:
        axes.plot(
            [knee[x]], [knee[y]], "*", color=VERMILLION, ms=15, mec="black", mew=0.7, zorder=4, label="knee"
        )
    directions = analysis.results.objectives
    axes.set_xlabel(f"{objective_title(x)} ({_BETTER[directions[x]]})")
    axes.set_ylabel(f"{objective_title(y)} ({_BETTER[directions[y]]})")
    figure.legend(fontsize=8, ncols=3, loc="outside upper center")
    return figure


def draw_curve(analysis: Analysis, parameter: str) -> Figure:
    """Draw every objective along a parameter: mean, seed std and range of all runs."""
    rows = analysis.curves[analysis.curves["parameter"] == parameter]
    objectives = list(analysis.results.objectives)
    figure = new_figure(5.4, 1.2 * len(objectives) + 0.7)
    panels = figure.subplots(len(objectives), 1, sharex=True, squeeze=False)[:, 0]
    values = sorted(rows["value"].unique().tolist())
    choices = not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    points = analysis.results.points.set_index("point")
    chosen = None if analysis.knee is None else points.loc[analysis.knee["point"], parameter]
    positions = {value: i if choices else float(value) for i, value in enumerate(values)}
    for axes, name, color, marker in zip(panels, objectives, SERIES, MARKERS, strict=False):
        part = rows[rows["objective"] == name]
        x = np.array([positions[value] for value in part["value"]], np.float64)
        axes.vlines(x, part["min"], part["max"], color=color, alpha=0.35, linewidth=5)
        axes.errorbar(
            x,
            part["mean"],
            yerr=part["seed_std"].fillna(0.0),
            fmt=marker + ("" if choices else "-"),
            color=color,
            capsize=3,
            markersize=5,
        )
        if chosen in positions and len(positions) > 1:
            axes.axvline(positions[chosen], color=GREY, linestyle=":")
        axes.set_ylabel(objective_title(name).replace(" ", "\n"))
        tidy(axes)
    last = panels[-1]
    if choices:
        last.set_xticks(range(len(values)), [str(value) for value in values], rotation=20, parse_math=False)
    elif parameter in analysis.results.log_parameters:
        last.set_xscale("log")
    last.set_xlabel(parameter, parse_math=False)
    return figure


def draw_importance(analysis: Analysis) -> Figure:
    """Draw the importance of every parameter for every objective as bars with intervals."""
    table = analysis.sensitivity.dropna(subset="importance")
    parameters = list(dict.fromkeys(table["parameter"]))
    objectives = list(dict.fromkeys(table["objective"]))
    figure, axes = single_axes(5.4, 1.2 + 0.28 * len(parameters) * (len(objectives) + 1))
    height = 1 / (len(objectives) + 1)
    for i, objective in enumerate(objectives):
        rows = table[table["objective"] == objective].set_index("parameter").loc[parameters]
        mean = rows["importance"].to_numpy(np.float64)
        axes.barh(
            np.arange(len(parameters)) + (i - (len(objectives) - 1) / 2) * height,
            mean,
            height * 0.9,
            xerr=np.abs(np.stack([mean - rows["low"], rows["high"] - mean]).astype(np.float64)),
            color=SERIES[i % len(SERIES)],
            hatch=("", "//", "..", "xx", "\\\\")[i % 5],
            edgecolor="white",
            ecolor="#333333",
            capsize=2,
            label=objective_title(objective),
        )
    axes.set_yticks(range(len(parameters)), parameters, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance explained alone, 95 % interval", fontsize=9)
    figure.legend(fontsize=8, ncols=2, loc="outside upper center")
    return figure
