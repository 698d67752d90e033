"""All texts of a role as one sequence: every text once, found by row and language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest

from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.flat_texts import FlatTexts


@pytest.fixture
def ragged(
    make_example: Callable[..., Any], write_lines: Callable[..., Any], build: Callable[..., Corpus]
) -> Corpus:
    """Examples of which some lack a language: question and passage by different rules."""
    rows = []
    for number in range(9):
        row = make_example(number, ["en", "fi", "hu"])
        for key, modulus in (("question", 2), ("passage", 3)):
            if number % modulus == 1:
                row[key] = {code: text for code, text in row[key].items() if code != "fi"}
        rows.append(row)
    return build(write_lines("train.jsonl", rows), missing="skip")


@pytest.mark.parametrize("role", get_args(Role))
def test_every_text_once_and_found_by_row_and_language(ragged: Corpus, role: Role) -> None:
    texts = FlatTexts(ragged, role)
    read = ragged.question_texts if role == "question" else ragged.passage_texts
    want = [text for code in ragged.languages for text in read(code) if text is not None]
    assert len(want) < 27  # a language is absent somewhere
    assert list(texts) == want
    assert [texts[number] for number in range(len(texts))] == want
    for start in range(len(want)):
        assert texts[start : start + 5] == want[start : start + 5]
    rows, languages = texts.sources(range(2, len(want)))
    for number, row, language in zip(range(2, len(want)), rows.tolist(), languages.tolist(), strict=True):
        assert read(language, row, row + 1) == [want[number]]
        assert texts.numbers(np.array([row]), language).tolist() == [number]
    shuffled = np.random.default_rng(0).permutation(len(rows)).reshape(-1, 1)
    np.testing.assert_array_equal(texts.locate(shuffled + 2), (rows[shuffled], languages[shuffled]))
    with pytest.raises(IndexError):
        texts[len(want)]
