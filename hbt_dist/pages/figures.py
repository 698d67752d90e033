"""Set colours and canvases of all figures.

Colours are those of Okabe and Ito, distinct with any kind of colour blindness; shapes or words repeat their
meaning. Works without a display; equal data give equal files.
"""

from __future__ import annotations

from io import BytesIO

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
GREY = "#8A8A8A"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, VERMILLION)
MARKERS = ("o", "s", "^", "D", "v")
DPI = 150


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, sizes in inches; up to a width of 5 it is readable on a phone."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def single_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure with one drawing."""
    figure = new_figure(width, height)
    axes = figure.add_subplot()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes) -> None:
    """Draw a faint grid and no frame."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


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
