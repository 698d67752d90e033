"""Matrices: their text, their contrast, their picture."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

from hbt_dist.pages.matrix import Matrix


def contrast(one: str, other: str) -> float:
    """WCAG 2: (lighter + 0.05) / (darker + 0.05)."""
    light = []
    for colour in (one, other):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        light.append(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def made(size: int, difference: bool) -> Matrix:
    values = np.linspace(-1 if difference else 0, 1, size * size).reshape(size, size)
    values[0, 1] = np.nan
    names = tuple(f"l{i}" for i in range(size))
    marks = np.eye(size, dtype=bool)
    groups = tuple("ab"[i % 3 == 2] for i in range(size))
    return Matrix("made", names, values, difference, marks if difference else None, groups)


@pytest.mark.parametrize("difference", [False, True])
def test_every_number_contrasts_with_its_cell(difference: bool) -> None:
    matrix = made(30, difference)
    found = [contrast(*cell) for row in matrix.colours for cell in row]
    assert len(found) == 900
    assert min(found) >= 4.5


def test_cells_as_text() -> None:
    plain, change = made(2, False), made(3, True)
    assert [plain.text(0, 0), plain.text(0, 1), plain.text(1, 1)] == ["0.000", "-", "1.000"]
    assert [change.text(0, 0), change.text(0, 2), change.text(1, 1)] == ["-1.000*", "-0.500", "+0.000*"]
    assert change.rows()[0] == ["l0", "-1.000*", "-", "-0.500"]
    assert 'class="n d top left"' in change.html()


def test_what_it_shows_in_words() -> None:
    values = np.array([[0.9, 0.2], [0.4, np.nan]])
    plain = Matrix("made", ("en", "fi"), values)
    ends = "from 0.200 (en to fi) to 0.900 (en to en)"
    assert plain.finding == f"mean 0.900 within languages, mean 0.300 across; {ends}"
    change = Matrix("made", ("en", "fi"), values - 0.3, difference=True, marks=np.ones((2, 2), dtype=bool))
    assert change.finding == "2 of 3 cells higher, 1 lower; from -0.100 (en to fi) to +0.600 (en to en)"


@pytest.mark.parametrize("size", [1, 2, 20])
@pytest.mark.parametrize("difference", [False, True])
def test_picture(size: int, difference: bool) -> None:
    values = np.random.default_rng(0).random((size, size))
    matrix = Matrix("a $ b", tuple(f"l{i}" for i in range(size)), values, difference)
    picture = imread(BytesIO(matrix.picture()))
    assert picture.shape[0] >= 600
    assert len(np.unique(picture[..., 0])) > 50


def test_a_matrix_without_values() -> None:
    matrix = Matrix("empty", ("en",), np.full((1, 1), np.nan), difference=True)
    assert matrix.picture().startswith(b"\x89PNG")
    assert ">-</td>" in matrix.html()
    assert matrix.finding == "no values"


def test_scale_from_chance_and_languages_that_training_did_not_see() -> None:
    values = np.array([[0.6, 0.1], [0.3, 0.5]])
    matrix = Matrix(
        "made",
        ("en", "uk"),
        values,
        names=("English", "Ukrainian"),
        low=0.1,
        high=0.6,
        low_name="random order",
        hollow=(False, True),
        marks=np.array([[False, False], [True, False]]),
        mark="~",
        marked="no significant change",
    )
    assert matrix.colours[0][1][0] == to_hex(matrix.scale(0.0))
    assert matrix.colours[0][0][0] == to_hex(matrix.scale(1.0))
    assert matrix.rows()[1] == ["uk° Ukrainian", "0.300~", "0.500"]
    assert matrix.legend == "~ no significant change; ° not in the training data"
    page = matrix.html()
    assert 'class="hollow" title="Ukrainian">uk° <small>Ukrainian</small></th>' in page
    assert "random order 0.100<span" in page
    assert matrix.legend in page
    assert 'font-style="italic">uk°</text>' in matrix.map()
