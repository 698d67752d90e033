"""Read SQuAD-style JSON: `data[] -> paragraphs[] -> {context, qas[] -> {id, question, answers[]}}`.

LAReQA's files add `sentences[]` and `sentence_breaks[[start, end], ...]` to each paragraph. A file is
read as a whole: the largest of the public files is 20 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.fields import (
    check_text,
    check_type,
    id_field,
    int_field,
    list_field,
    object_items,
    required,
    text_field,
)
from hbt_dist.data.files import paths_by_language, read_json


@dataclass(frozen=True)
class SquadQuestion:
    """A question; `answer_starts` are offsets into the context, none for an unanswerable one."""

    location: str
    question_id: str
    text: str
    answer_starts: list[int]


@dataclass(frozen=True)
class SquadParagraph:
    """A paragraph with its questions; `raw` is its JSON object, for further fields."""

    location: str
    context: str
    questions: list[SquadQuestion]
    raw: Mapping[str, Any]


def squad_files(folder: Path) -> dict[str, Path]:
    """Return language -> file of the `{language}.json` files of a folder."""
    return paths_by_language(folder, folder.glob("*.json"), lambda path: path.stem, "en.json")


def read_squad(path: Path) -> Iterator[SquadParagraph]:
    """Yield the paragraphs of a file in order; offsets are checked against their context."""
    for article_location, article in object_items(read_json(path), "data", str(path)):
        for location, paragraph in object_items(article, "paragraphs", article_location):
            context = text_field(paragraph, "context", location)
            questions = [
                _question(row, inner, context) for inner, row in object_items(paragraph, "qas", location)
            ]
            yield SquadParagraph(location, context, questions, paragraph)


def _question(row: Mapping[str, Any], location: str, context: str) -> SquadQuestion:
    question_id = id_field(row, "id", location)
    starts = []
    for inner, answer in object_items(row, "answers", location):
        start = int_field(answer, "answer_start", inner)
        end = start + len(check_type(required(answer, "text", inner), str, inner, "field 'text'", "a text"))
        if start < 0 or end > len(context):
            raise UserError(
                inner,
                f"the answer of question {question_id!r} at {start} to {end} is outside its context of "
                f"{len(context)} characters",
                "offsets count characters (code points) from 0; repair answer_start or the context",
            )
        starts.append(start)
    return SquadQuestion(location, question_id, text_field(row, "question", location), starts)


def sentences_of(paragraph: SquadParagraph) -> list[tuple[int, int, str]]:
    """Return (start, end, sentence) of a LAReQA paragraph."""
    location, raw = paragraph.location, paragraph.raw
    sentences, breaks = list_field(raw, "sentences", location), list_field(raw, "sentence_breaks", location)
    if len(sentences) != len(breaks):
        raise UserError(
            location, f"{len(sentences)} sentences but {len(breaks)} sentence_breaks", "expected as many"
        )
    spans = []
    for number, (sentence, span) in enumerate(zip(sentences, breaks, strict=True)):
        inner = f"{location}, sentence_breaks[{number}]"
        if not isinstance(span, list) or len(span) != 2 or not all(type(edge) is int for edge in span):
            raise UserError(inner, "is not a pair of whole numbers", "expected [start, end]")
        start, end = span
        if not 0 <= start < end <= len(paragraph.context):
            raise UserError(
                inner,
                f"[{start}, {end}] is outside its context of {len(paragraph.context)} characters",
                "repair sentence_breaks or the context",
            )
        spans.append((start, end, check_text(sentence, f"{location}, sentences[{number}]", "the sentence")))
    return spans
