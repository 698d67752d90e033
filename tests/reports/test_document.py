"""Blocks of a page that need no browser: the same content on the page and in Markdown."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hbt_dist.pages.document import MOST_SIDE_BY_SIDE, Document, Tile
from hbt_dist.pages.matrix import Matrix


def test_the_lead_and_large_figures_are_above_the_contents() -> None:
    document = Document("run", "made report")
    document.lead("Answers are found.", "95 % interval")
    document.tiles([Tile("across", "0.056", "0.672", "chance 0.043"), Tile("pool", "", "0.500")])
    document.heading("Pairs")
    head = document.page().partition("<nav")[0]
    order = [head.index(text) for text in ("<h1>", 'class="lead"', 'class="tiles"', 'class="small"')]
    assert order == sorted(order)
    assert "0.056 → </span><strong>0.672</strong>" in head
    lines = document.markdown().splitlines()
    assert "| across | 0.056 | 0.672 | chance 0.043 |" in lines
    assert "| pool | - | 0.500 |  |" in lines
    assert lines.index("95 % interval") < lines.index("## Pairs")


def test_terms_are_explained_where_they_are_used() -> None:
    document = Document("run", "made report")
    document.heading("Tests")
    document.meaning({"d": "effect size", "p": "chance of such a change", "Holm": "correction"})
    assert "<summary>What “d”, “p” and “Holm” mean</summary>" in document.page()
    assert "* **Holm**: correction" in document.markdown()


@pytest.mark.parametrize("size", [3, MOST_SIDE_BY_SIDE + 1])
def test_two_matrices_next_to_each_other(size: int) -> None:
    languages = tuple(f"l{i}" for i in range(size))
    before, after = (
        Matrix(caption, languages, np.full((size, size), value))
        for caption, value in (("before", 0.125), ("after", 0.625))
    )
    document = Document("run", "made report")
    document.heading("Pairs")
    document.side_by_side(before, after, ("before.png", "after.png"))
    page, markdown = document.page(), document.markdown()
    assert set(document.files) == {"before.png", "after.png"}
    assert "| before | after |\n| --- | --- |\n| ![before" in markdown
    for text in ("0.125", "0.625"):
        assert page.count(f">{text}</td>") == size * size
        assert markdown.count(f"| {text} ") == size * size
    assert page.count("<svg") == (0 if size == 3 else 2)
    assert len(re.findall("<rect ", page)) == (0 if size == 3 else 2 * size * size)


def test_wide_tables_become_cards_on_a_phone() -> None:
    document = Document("run", "made report")
    document.heading("Tables")
    document.table("narrow", ["a", "b"], [["x", "1"]])
    document.table("wide", ["a", *"bcdefg"], [["a long name", *["0.12345"] * 6]])
    narrow, wide = document.page().split("<table")[1:]
    assert 'class="cards"' in wide.partition(">")[0]
    assert 'class="cards"' not in narrow.partition(">")[0]
    assert wide.count('data-column="c"') == 1
