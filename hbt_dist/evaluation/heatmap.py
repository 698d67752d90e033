"""The pair matrix as a picture: question languages down, candidate languages across.

Colours are `cividis`, which people with any kind of colour blindness read alike; every cell carries its
number, dark on light or light on dark, so that the picture also works in print.
"""

from __future__ import annotations

from math import isnan
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hbt_dist.evaluation.pair_matrix import PairMatrix


def draw_heatmap(matrix: PairMatrix, path: Path, title: str, metric: str = "map") -> None:
    """Write a PNG that stays readable from 2 to about 30 languages. Needs no display."""
    values, size = matrix.values[metric], len(matrix.languages)
    side = max(4.0, 0.52 * size + 1.8)
    figure = Figure(figsize=(side + 1.1, side), dpi=160 if size <= 20 else 120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(values, cmap="cividis", vmin=0.0, vmax=1.0)
    axes.set_xticks(range(size), matrix.languages)
    axes.set_yticks(range(size), matrix.languages)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_xlabel("candidate language")
    axes.set_ylabel("question language")
    axes.set_title(title, fontsize=10)
    font = 10 if size <= 6 else 7.5
    for i in range(size):
        for j in range(size):
            value = values[i, j]
            text = "" if isnan(value) else f"{value:.3f}".replace("0.", ".", 1)
            axes.text(
                j,
                i,
                text,
                ha="center",
                va="center",
                fontsize=font,
                color="black" if value > 0.55 else "white",
                fontweight="bold" if i == j else "normal",
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("mAP" if metric == "map" else metric)
    figure.savefig(path)
