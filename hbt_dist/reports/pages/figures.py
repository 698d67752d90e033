"""Colours and canvases of all figures.

Colours are those of Okabe and Ito, told apart with any kind of colour blindness; every figure says the same
again with shapes or words. No display is needed; files of equal data are equal.
"""

from __future__ import annotations

from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GREY = "#8A8A8A"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION)
MARKERS = ("o", "s", "^", "D", "v")
DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches; at most 5 wide stays readable on a phone."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one drawing."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    """A faint grid and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def few_ticks(axes: Axes, across: int, up: int | None = None) -> None:
    """At most so many steps along an axis, so that long numbers do not touch; None leaves it alone."""
    axes.locator_params(axis="x", nbins=across)
    if up is not None:
        axes.locator_params(axis="y", nbins=up)


def svg(figure: Figure, name: str) -> bytes:
    """Return the figure as the content of an SVG file; its ids depend on `name`, not on chance."""
    buffer = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """Return the figure as the content of a PNG file."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": "hbt_dist"})
    return buffer.getvalue()
