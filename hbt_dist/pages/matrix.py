"""Render a matrix of languages by languages as a shaded table, as Markdown, as a picture.

Colours are `viridis` from `low` to `high` for values, and orange - white - blue for differences: both work
with any kind of colour blindness. Every cell shows its number in black or white, the choice with more
contrast to its colour (at least 4.58 to 1), so the matrix also works in print.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from html import escape
from math import isnan

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex
from numpy.typing import NDArray

from hbt_dist.common.numbers import plain, signed
from hbt_dist.pages.figures import new_figure, png
from hbt_dist.pages.html import table

_MOST_SPACIOUS = 12  # languages of a difference in large digits
AXES = "Rows: question language; columns: candidate language"
#: Light enough for black ink in every cell: ink that alternates in one colour looks like noise.
_DIFFERENCE = LinearSegmentedColormap.from_list("difference", ("#E8833A", "#FFFFFF", "#56A8E0"))


@dataclass(frozen=True)
class Matrix:
    """(L, L) values, rows question languages, columns candidate languages; NaN without a value.

    Args:
        caption: title of the matrix, unique on its page.
        languages: L codes.
        values: mAP or its change.
        difference: colours around zero, numbers with a sign.
        marks: (L, L) cells with a `mark` behind their number.
        groups: a name per language; lines separate the groups.
        names: the languages' names for people.
        low: start of the colour scale, such as the value of a random order.
        high: end of the colour scale, such as the largest value of all matrices shown together.
        hollow: (L) languages that training did not see, in italics and with a degree sign.
        mark: sign at the marked cells.
        marked: meaning of the sign, for the legend.
        low_name: meaning of `low`, for the legend.
    """

    caption: str
    languages: tuple[str, ...]
    values: NDArray[np.float64]
    difference: bool = False
    marks: NDArray[np.bool_] | None = None
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    hollow: tuple[bool, ...] = ()
    mark: str = "*"
    marked: str = ""
    low_name: str = ""

    def text(self, i: int, j: int) -> str:
        """Return a cell as text: `0.705`, `+0.052*`, or `-`."""
        value = float(self.values[i, j])
        if isnan(value):
            return "-"
        digits = f"{value:+.3f}" if self.difference else f"{value:.3f}"
        return digits + (self.mark if self.marks is not None and self.marks[i, j] else "")

    def code(self, i: int) -> str:
        """Return a language's code, with a degree sign if training did not see it."""
        return self.languages[i] + ("°" if self._is_hollow(i) else "")

    def name(self, i: int) -> str:
        """Return a language's code and name: ``fi Finnish``, ``uk° Ukrainian``."""
        return " ".join((self.code(i), *self.names[i : i + 1]))

    def _is_hollow(self, i: int) -> bool:
        return bool(self.hollow) and self.hollow[i]

    @property
    def legend(self) -> str:
        """The meaning of the signs in the matrix; empty without any."""
        has_marks = self.marks is not None and bool(self.marks.any())
        signs = {
            f"{self.mark} {self.marked}": has_marks and bool(self.marked),
            "° not in the training data": any(self.hollow),
        }
        return "; ".join(text for text, is_used in signs.items() if is_used)

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value of the scale."""
        if not self.difference:
            return self.low, max(self.high, self.low + 1e-3)
        known = np.abs(self.values[~np.isnan(self.values)])
        most = max(float(known.max()), 1e-3) if len(known) else 1.0
        return -most, most

    @property
    def scale(self) -> Colormap:
        """Colours from the lowest to the highest value."""
        return _DIFFERENCE if self.difference else matplotlib.colormaps["viridis"]

    @cached_property
    def colours(self) -> list[list[tuple[str, str]]]:
        """Background and ink of every cell."""
        low, high = self.bounds
        grounds = self.scale((self.values - low) / (high - low))[..., :3]
        grounds[np.isnan(self.values)] = 1.0
        return [
            [(to_hex(ground), "#ffffff" if _luminance(ground) < 0.179 else "#000000") for ground in row]
            for row in grounds
        ]

    def begins(self, i: int) -> bool:
        """Return whether a group begins with a language."""
        return bool(self.groups) and i > 0 and self.groups[i] != self.groups[i - 1]

    @property
    def finding(self) -> str:
        """The level and the extremes of the matrix in words."""
        known = self.values[~np.isnan(self.values)]
        if not len(known):
            return "no values"
        ends = [self._at(int(extreme(self.values))) for extreme in (np.nanargmax, np.nanargmin)]
        if self.difference:
            counts = f"{np.sum(known > 0)} of {len(known)} cells higher, {np.sum(known < 0)} lower"
            return f"{counts}; from {ends[1]} to {ends[0]}"
        same = np.diagonal(self.values)
        different = self.values[~np.eye(len(self.values), dtype=bool)]
        means = [
            f"mean {plain(float(np.nanmean(part)), 3)} {words}"
            for part, words in ((same, "within languages"), (different, "across"))
            if not np.isnan(part).all()
        ]
        return f"{', '.join(means)}; from {ends[1]} to {ends[0]}"

    def _at(self, cell: int) -> str:
        i, j = divmod(cell, len(self.languages))
        question, candidate = (self.names or self.languages)[i], (self.names or self.languages)[j]
        return f"{self.text(i, j).rstrip(self.mark)} ({question} to {candidate})"

    def html(self) -> str:
        """Return a shaded table; the titles of its head cells are the language's name and group."""
        size = range(len(self.languages))
        rows = [[self._head(i, "row"), *(self._cell(i, j) for j in size)] for i in size]
        heads = ['<td role="cell"></td>', *(self._head(j, "col") for j in size)]
        caption = f"{self.caption}. {AXES}"
        longest = max(len(self.text(i, j)) for i in size for j in size)
        style = f"--columns:{len(rows) + 1};--characters:{longest}"  # print scales it to the paper
        kind = "matrix dense" if self.difference and len(rows) > _MOST_SPACIOUS else "matrix"
        note = self._scale() + self._legend()
        return table(caption, heads, rows, attributes=f'class="{kind}" style="{style}"', note=note)

    def _legend(self) -> str:
        return f'<p class="legend">{escape(self.legend)}</p>' if self.legend else ""

    def _scale(self) -> str:
        low, high = (signed(end, 2) if self.difference else plain(end) for end in self.bounds)
        steps = ",".join(to_hex(self.scale(k / 8)) for k in range(9))
        first = f"{self.low_name} {low}" if self.low_name and not self.difference else low
        return (
            f'<p class="scale" aria-hidden="true">{escape(first)}'
            f'<span style="background:linear-gradient(90deg,{steps})"></span>{high}</p>'
        )

    def map(self) -> str:
        """Return a figure of coloured cells without numbers, for matrices next to each other."""
        size, cell, side = len(self.languages), 20, 44
        width = side + size * cell
        shapes = []
        for i in range(size):
            at = side + i * cell
            style = ' font-style="italic"' if self._is_hollow(i) else ""
            shapes += [
                f'<text x="{side - 4}" y="{at + 14}" text-anchor="end"{style}>{escape(self.code(i))}</text>',
                f'<text transform="translate({at + 14} {side - 4}) rotate(-90)"{style}>'
                f"{escape(self.code(i))}</text>",
            ]
            shapes += [
                f'<rect x="{side + j * cell}" y="{at}" width="{cell}" height="{cell}" fill="{ground}"/>'
                for j, (ground, _) in enumerate(self.colours[i])
            ]
        about = escape(f"{self.caption}: {self.finding}")
        return (
            f'<figure><figcaption>{escape(self.caption)}</figcaption><svg role="img" aria-label="{about}" '
            f'shape-rendering="crispEdges" viewBox="0 0 {width} {width}">{"".join(shapes)}</svg>'
            f"{self._scale()}{self._legend()}</figure>"
        )

    def _cell(self, i: int, j: int) -> str:
        kinds = {"n": True, "d": i == j, "top": self.begins(i), "left": self.begins(j)}
        names = " ".join(name for name, holds in kinds.items() if holds)
        ground, ink = self.colours[i][j]
        style = f"background:{ground};color:{ink}"
        return f'<td role="cell" class="{names}" style="{style}">{self.text(i, j)}</td>'

    def _head(self, i: int, scope: str) -> str:
        about = " ".join((*self.names[i : i + 1], *(f"({group})" for group in self.groups[i : i + 1])))
        title = f' title="{escape(about)}"' if about else ""
        kinds = {"top" if scope == "row" else "left": self.begins(i), "hollow": self._is_hollow(i)}
        names = " ".join(name for name, holds in kinds.items() if holds)
        code, role = escape(self.code(i)), "rowheader" if scope == "row" else "columnheader"
        name = f" <small>{escape(self.names[i])}</small>" if scope == "row" and self.names else ""
        classes = f' class="{names}"' if names else ""
        return f'<th role="{role}" scope="{scope}"{classes}{title}>{code}{name}</th>'

    def head(self) -> list[str]:
        """Return the cells of the head row."""
        return ["", *(self.code(i) for i in range(len(self.languages)))]

    def rows(self) -> list[list[str]]:
        """Return language and cells of each row."""
        size = range(len(self.languages))
        return [[self.name(i), *(self.text(i, j) for j in size)] for i in size]

    def picture(self) -> bytes:
        """Return a PNG that is readable from 2 to about 30 languages."""
        size = len(self.languages)
        side = max(4.0, 0.52 * size + 1.8)
        figure = new_figure(side + 1.1, side)
        axes = figure.add_subplot()
        low, high = self.bounds
        image = axes.imshow(self.values, cmap=self.scale, vmin=low, vmax=high)
        axes.set_xticks(range(size), self.head()[1:])
        axes.set_yticks(range(size), [self.name(i) for i in range(size)])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.set_xlabel("\n".join(["candidate language", *([self.legend] if self.legend else [])]))
        axes.set_ylabel("question language")
        axes.set_title(self.caption, fontsize=10, parse_math=False)
        edge = "#444444" if self.difference else "white"
        for i in range(size):
            if self.begins(i):
                axes.axhline(i - 0.5, color=edge, linewidth=1.2)
                axes.axvline(i - 0.5, color=edge, linewidth=1.2)
            for j in range(size):
                axes.text(
                    j,
                    i,
                    "" if isnan(self.values[i, j]) else self.text(i, j),
                    ha="center",
                    va="center",
                    fontsize=10 if size <= 6 else 7.5,
                    color=self.colours[i][j][1],
                    fontweight="bold" if i == j else "normal",
                    in_layout=False,  # inside the axes anyway; measuring each would take most of the time
                )
        figure.colorbar(image, ax=axes, shrink=0.8).set_label("change in mAP" if self.difference else "mAP")
        return png(figure)


def _luminance(colour: NDArray[np.float64]) -> float:
    """Return the relative luminance (WCAG 2) of red, green, blue in 0..1."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))
