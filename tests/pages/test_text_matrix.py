"""Matrices in the terminal: aligned columns, stars, unseen languages, best and worst pairs."""

from __future__ import annotations

import numpy as np
from rich.cells import cell_len

from hbt_dist.pages.text_matrix import aligned, extreme_lines, matrix_lines


def test_a_matrix_has_one_line_for_each_question_language() -> None:
    values = [[0.91, 0.5, None], [0.4567, 0.8, 0.1], [float("nan"), 0.2, 0.7]]
    assert matrix_lines(["en", "fi", "uk"], values, hollow=[False, False, True]) == [
        "        en     fi    uk°",
        "en   0.910  0.500      -",
        "fi   0.457  0.800  0.100",
        "uk°      -  0.200  0.700",
    ]


def test_changes_have_signs_and_stars_without_moving_the_digits() -> None:
    changes, marks = [[0.0123, -0.2], [0.0001, 1]], [[True, False], [False, True]]
    lines = matrix_lines(["en", "zh-Hant"], changes, marks=marks, signed=True)
    assert lines == [
        "             en   zh-Hant",
        "en       +0.012*   -0.200",
        "zh-Hant       0    +1.000*",
    ]


def test_columns_stay_aligned_with_wide_and_combining_characters() -> None:
    lines = aligned([["", "a"], ["日本語", "0.1"], ["عربي", "0.12"], ["é", "1"]])
    assert {cell_len(line) for line in lines} == {12}
    assert lines[2].startswith("\u2068عربي\u2069  ")  # else terminals reverse the numbers behind it


def test_extremes_of_many_languages() -> None:
    values = np.arange(9.0).reshape(3, 3) / 10
    values[1, 1] = np.nan
    assert extreme_lines(["a", "b", "c"], values) == [
        "highest: c-c 0.800, c-b 0.700, c-a 0.600, b-c 0.500, b-a 0.300",
        "lowest: a-a 0.000, a-b 0.100, a-c 0.200, b-a 0.300, b-c 0.500",
    ]
