"""Format a matrix of languages by languages as lines of text, for terminals, logs and notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from unicodedata import bidirectional

import numpy as np
from numpy.typing import ArrayLike
from rich.cells import cell_len

from hbt_dist.common.numbers import plain, signed

#: Languages of a matrix at most; longer ones are shown by their best and worst pairs.
MOST_SHOWN = 12
#: Columns of the terminal that text may take.
WIDTH = 100
UNSEEN = "°"
_EXTREMES = 5
_GAP = " " * 4


def matrix_lines(
    languages: Sequence[str],
    values: ArrayLike,
    *,
    marks: ArrayLike | None = None,
    hollow: Sequence[bool] = (),
    signed: bool = False,
) -> list[str]:
    """Return one line for the candidate languages, then one for each question language.

    Args:
        languages: L codes.
        values: (L, L), rows question languages, columns candidate languages; NaN or None without a value.
        marks: (L, L) cells with a star.
        hollow: (L) languages with a degree sign.
        signed: numbers with a sign, for changes.
    """
    names = _names(languages, hollow)
    texts = _texts(values, marks, signed)
    blank = " " * (marks is not None and bool(np.any(marks)))  # heads end above the digits, not above a star
    return aligned(
        [
            ["", *(name + blank for name in names)],
            *([name, *row] for name, row in zip(names, texts, strict=True)),
        ]
    )


def extreme_lines(
    languages: Sequence[str],
    values: ArrayLike,
    *,
    marks: ArrayLike | None = None,
    hollow: Sequence[bool] = (),
    signed: bool = False,
) -> list[str]:
    """Return the five highest and the five lowest pairs, see `matrix_lines`; for many languages."""
    names = _names(languages, hollow)
    texts = _texts(values, marks, signed)
    flat = np.asarray(values, np.float64).ravel()
    order = [int(cell) for cell in np.argsort(flat, kind="stable") if not np.isnan(flat[cell])]

    def pairs(cells: Sequence[int]) -> str:
        ends = [divmod(cell, len(names)) for cell in cells]
        return ", ".join(f"{names[i]}-{names[j]} {texts[i][j].strip()}" for i, j in ends)

    return [f"highest: {pairs(order[: -_EXTREMES - 1 : -1])}", f"lowest: {pairs(order[:_EXTREMES])}"]


def next_to_each_other(blocks: Sequence[Sequence[str]]) -> list[str]:
    """Return blocks of lines next to each other where they fit, else one below the other."""
    widths = [max(map(cell_len, block)) for block in blocks]
    if sum(widths) + len(_GAP) * (len(blocks) - 1) > WIDTH:
        return [line for block in blocks for line in block]
    rows = zip_longest(*blocks, fillvalue="")
    return [
        _GAP.join(padded(line, width, left=True) for line, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines: the first column to the left, the rest to the right.

    Counts the columns that a terminal uses: two for a Chinese character, none for a combining one.
    """
    widths = [max(map(cell_len, column)) for column in zip_longest(*rows, fillvalue="")]
    return [
        "  ".join(
            padded(cell, width, left=not number)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def padded(text: str, width: int, *, left: bool) -> str:
    """Return a text with spaces up to a width in columns of the terminal.

    Text from right to left is isolated: terminals would reverse the numbers behind it.
    """
    spaces = " " * (width - cell_len(text))
    if any(bidirectional(character) in ("R", "AL") for character in text):
        text = f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
    return text + spaces if left else spaces + text


def _names(languages: Sequence[str], hollow: Sequence[bool]) -> list[str]:
    unseen = hollow or [False] * len(languages)
    return [language + UNSEEN * bool(mark) for language, mark in zip(languages, unseen, strict=True)]


def _texts(values: ArrayLike, marks: ArrayLike | None, with_sign: bool) -> list[list[str]]:
    """Return the cells as text; a blank stands for a star that another cell has."""
    show = signed if with_sign else plain
    numbers = np.asarray(values, np.float64)
    starred = np.zeros_like(numbers, bool) if marks is None else np.asarray(marks, bool)
    signs = [" ", "*"] if starred.any() else ["", ""]
    return [
        [show(value) + signs[star] for value, star in zip(row, stars, strict=True)]
        for row, stars in zip(numbers.tolist(), starred.tolist(), strict=True)
    ]
