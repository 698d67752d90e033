"""Characters that show nothing: empty texts, equal texts, and a NUL inside a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_dist.batching.inspection import examples_missed
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.duplicate_groups import text_hash
from hbt_dist.data.invisible import is_blank
from hbt_dist.data.leakage.shingles import normalise

Build = Callable[..., Corpus]
Write = Callable[..., Path]


@pytest.mark.parametrize(
    "text",
    ["", " \n", "\u200b", "\u2060", "\ufeff", "\u00ad", "\u200e \u200f", "\0", "\u3164", "\u200d\ufe0f"],
)
def test_texts_that_show_nothing_are_empty(text: str, write_lines: Write, build: Build) -> None:
    assert is_blank(text)
    path = write_lines("a.jsonl", [{"id": "1", "question": {"en": "a"}, "passage": {"en": text}}])
    with pytest.raises(UserError, match="line 1: field 'passage' in 'en' is empty"):
        build(path)


@pytest.mark.parametrize("text", ["a", "\u200ba", "\u200f\u05d0", "\u0e01", "\u2764\ufe0f", "-", "\ue000"])
def test_texts_that_show_something_are_not(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize("mark", ["\u200f", "\u200c", "\u200d", "\ufeff", "\u00ad", "\u200b", "\u2060"])
def test_format_characters_make_no_two_texts(mark: str) -> None:
    for text in ("kaupunki on t\u00e4\u00e4ll\u00e4", "town"):
        marked = mark + text[:4] + mark + text[4:] + " " + mark
        assert text_hash(marked) == text_hash(text)
        assert normalise(marked) == normalise(text)
    assert text_hash("town a") != text_hash("town b")


def test_equal_texts_with_marks_share_a_group(write_lines: Write, build: Build) -> None:
    rows = [
        {"id": str(number), "question": {"en": f"q{number}"}, "passage": {"en": text}}
        for number, text in enumerate(["same text", "same\u200f text", "sa\u00adme text", "another"])
    ]
    assert build(write_lines("a.jsonl", rows)).example_group.tolist() == [0, 0, 0, 1]


def test_a_nul_makes_no_two_passages_one(write_lines: Write, build: Build) -> None:
    passages = [{"en": "a\0fi\0b"}, {"en": "a", "fi": "b"}, {"en": "a\0fi", "fi": "b"}]
    rows = [
        json.dumps({"id": str(number), "question": {"en": f"q{number}"}, "passage": passage})
        for number, passage in enumerate(passages)
    ]
    assert build(write_lines("a.jsonl", rows), missing="skip").num_passages == 3


def test_examples_that_no_epoch_gives_are_reported(write_lines: Write, build: Build) -> None:
    rows = [
        {
            "id": str(number),
            "question": {"en": f"q{number}"},
            "passage": {"en": "one answer" if number < 1_000 else f"answer {number}"},
        }
        for number in range(1_040)
    ]
    settings = BatchSettings.model_validate({"global_batch_size": 8, "alpha": 1})
    (line,) = examples_missed(BatchPlan(build(write_lines("a.jsonl", rows)), settings, 0))
    assert line.startswith("45 of 1,040 examples can be drawn per epoch")
    distinct = write_lines("b.jsonl", rows[1_000:])
    assert examples_missed(BatchPlan(build(distinct), settings, 0)) == []
