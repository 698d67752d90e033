"""SQuAD-style JSON: `data[] -> paragraphs[] -> {context, qas[] -> {id, question, answers[]}}`.

LAReQA's files add `sentences[]` and `sentence_breaks[[start, end], ...]` to each paragraph. Read as a whole:
the largest of the public files is 20 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.fields import (
    check_text,
    id_field,
    int_field,
    list_field,
    object_items,
    required,
    text_field,
)
from hbt_dist.data.files import kind_of, read_json
from hbt_dist.data.languages import language_code


@dataclass(frozen=True)
class SquadQuestion:
    """A question; `answer_starts` are offsets into the context, none for an unanswerable one."""

    place: str
    question_id: str
    text: str
    answer_starts: list[int]


@dataclass(frozen=True)
class SquadParagraph:
    """A paragraph with its questions; `raw` is its JSON object, for further fields."""

    place: str
    context: str
    questions: list[SquadQuestion]
    raw: Mapping[str, Any]


def language_files(folder: Path) -> dict[str, Path]:
    """Language -> file of the `{language}.json` files of a folder."""
    files: dict[str, Path] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            language = language_code(path.stem)
        except ValueError:
            continue
        if language in files:
            raise UserError(
                str(path), f"is a second file of {language!r} beside {files[language].name}", "remove one"
            )
        files[language] = path
    if not files:
        raise UserError(str(folder), "holds no file named by a language, such as en.json", "check the folder")
    return files


def read_squad(path: Path) -> Iterator[SquadParagraph]:
    """The paragraphs of a file in order; offsets are checked against their context."""
    for article_place, article in object_items(read_json(path), "data", str(path)):
        for place, paragraph in object_items(article, "paragraphs", article_place):
            context = text_field(paragraph, "context", place)
            questions = [_question(one, at, context) for at, one in object_items(paragraph, "qas", place)]
            yield SquadParagraph(place, context, questions, paragraph)


def _question(row: Mapping[str, Any], place: str, context: str) -> SquadQuestion:
    question_id = id_field(row, "id", place)
    starts = []
    for inner, answer in object_items(row, "answers", place):
        start = int_field(answer, "answer_start", inner)
        text = required(answer, "text", inner)
        if not isinstance(text, str):
            raise UserError(inner, f"field 'text' is {kind_of(text)}", "expected a text")
        if start < 0 or start + len(text) > len(context):
            raise UserError(
                inner,
                f"the answer of question {question_id!r} lies at {start} to {start + len(text)}, outside its "
                f"context of {len(context)} characters",
                "offsets count characters (code points) from 0; repair answer_start or the context",
            )
        starts.append(start)
    return SquadQuestion(place, question_id, text_field(row, "question", place), starts)


def sentences_of(paragraph: SquadParagraph) -> list[tuple[int, int, str]]:
    """(start, end, sentence) of a LAReQA paragraph."""
    place, raw = paragraph.place, paragraph.raw
    sentences, breaks = list_field(raw, "sentences", place), list_field(raw, "sentence_breaks", place)
    if len(sentences) != len(breaks):
        raise UserError(
            place, f"{len(sentences)} sentences but {len(breaks)} sentence_breaks", "expected as many"
        )
    found = []
    for number, (sentence, span) in enumerate(zip(sentences, breaks, strict=True)):
        inner = f"{place}, sentence_breaks[{number}]"
        if not isinstance(span, list) or len(span) != 2 or not all(type(one) is int for one in span):
            raise UserError(inner, "is not a pair of whole numbers", "expected [start, end]")
        start, end = span
        if not 0 <= start < end <= len(paragraph.context):
            raise UserError(
                inner, f"[{start}, {end}] is outside its context of {len(paragraph.context)} characters"
            )
        found.append((start, end, check_text(sentence, f"{place}, sentences[{number}]", "the sentence")))
    return found
