"""Read the tables of collections: documents, questions and judgements, in every form that is published.

    documents    rows with `_id`, `id` or `docid`, and `contents` or `title` and `text`;
                 or lines: id, tab, text
    questions    rows with `_id`, `id`, `query_id` or `src_id`, and `text`, `query` or `src_query`;
                 rows of TREC topics in several languages; or lines: id, tab, text
    judgements   rows with `query-id`, `corpus-id`, `score`, or with a question's `tgt_results` (CLIRMatrix);
                 or lines: question, [iteration,] document, grade

Rows are JSON lines (`.jsonl`, `.jl`, `.gz` too), Parquet or Arrow; layouts.py knows which files belong to a
collection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.fields import (
    check_id,
    check_type,
    document_text,
    language_field,
    list_field,
    object_items,
    text_or_empty,
)
from hbt_dist.data.files import read_filled_lines
from hbt_dist.data.tables import ROWS

_ENDINGS = {"jsonl": "jsonl", "jl": "jsonl", "json": "jsonl", "parquet": "parquet", "arrow": "arrow"}
_DOCUMENT_IDS = ("_id", "id", "docid")
_QUESTION_IDS = ("_id", "id", "query_id", "src_id", "topic_id")
_QUESTION_TEXTS = ("text", "query", "src_query")
#: Topics in several languages: these are not machine translations.
_HUMAN = ("original", "human translation")


@dataclass(frozen=True)
class Part:
    """The documents of one language, and the questions that are judged on them.

    Attributes:
        language: of the documents.
        documents: files.
        questions: files with their language; None stands for topics that name it.
        judgements: files.
        prefix: of the ids of questions; parts that share questions have none.
        crosses: whether the same id in another part is the same document in translation.
        only_judged: ask only questions that are judged: the files hold all splits.
        fields: of TREC topics, joined to the text of a question.
    """

    language: str
    documents: list[Path]
    questions: list[tuple[str | None, Path]]
    judgements: list[Path]
    prefix: str = ""
    crosses: bool = False
    only_judged: bool = True
    fields: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """Return all files."""
        return [*self.documents, *(path for _, path in self.questions), *self.judgements]


def files_of(parts: Iterable[Part]) -> list[Path]:
    """Return the files of all parts, each once."""
    return list(dict.fromkeys(file for part in parts for file in part.files))


def add_parts(parts: Iterable[Part], into: BenchmarkBuilder) -> None:
    """Read the files of all parts."""
    first_part: dict[tuple[str, str], int] = {}  # (language, id) -> first part with the question
    for number, part in enumerate(parts):
        within = None if part.crosses else part.language
        judged = _judged(part)
        for path in part.documents:
            for location, item, text in _documents(path):
                into.add_candidate(item, part.language, text, location)
        judged_ids = {question for _, question, *_ in judged}
        for given, path in part.questions:
            for location, language, question, text in _questions(path, given, part.fields):
                if part.only_judged and question not in judged_ids:
                    continue
                name = part.prefix + question
                if first_part.setdefault((language, name), number) == number:
                    into.add_question(name, language, text, location, same_as=(question, within))
        for location, question, item, grade in judged:
            into.add_judgement(part.prefix + question, item, location, within, grade)


def _judged(part: Part) -> list[tuple[str, str, str, float]]:
    judged = [row for path in part.judgements for row in _judgements(path)]
    if not any(grade > 0 for *_, grade in judged):
        raise UserError(
            str(part.judgements[0]),
            f"names no relevant candidate for {part.language!r}",
            "drop the language, or check the file",
        )
    return judged


def _table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]] | None:
    """Return the rows of a file, or None for a file of lines."""
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    return ROWS[_ENDINGS[ending]](path) if ending in _ENDINGS else None


def _documents(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (location, id, text)."""
    if (rows := _table_rows(path)) is None:
        yield from _id_lines(path)
        return
    for location, row in rows:
        text = text_or_empty(row, "contents", location) if "contents" in row else document_text(row, location)
        yield location, _first_id(row, _DOCUMENT_IDS, location), text


def _questions(path: Path, given: str | None, fields: tuple[str, ...]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (location, language, id, text)."""
    if (rows := _table_rows(path)) is None:
        for location, question, text in _id_lines(path):
            yield location, str(given), question, text
        return
    for location, row in rows:
        question = _first_id(row, _QUESTION_IDS, location)
        if given is None:
            for language, text in _topics(row, location, fields).items():
                yield location, language, question, text
        else:
            key = next((name for name in _QUESTION_TEXTS if name in row), _QUESTION_TEXTS[0])
            yield location, given, question, text_or_empty(row, key, location)


def _topics(row: dict[str, Any], location: str, fields: tuple[str, ...]) -> dict[str, str]:
    """Return language -> text of a TREC topic, without machine translations; the first of each language."""
    texts: dict[str, str] = {}
    for inner, topic in object_items(row, "topics", location):
        if topic.get("source", _HUMAN[0]) in _HUMAN:
            parts = [text_or_empty(topic, f"topic_{field}", inner).strip() for field in fields]
            texts.setdefault(language_field(topic, "lang", inner), " ".join(part for part in parts if part))
    return texts


def _judgements(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (location, question, document, grade)."""
    if (rows := _table_rows(path)) is None:
        yield from read_qrels(path)
        return
    for location, row in rows:
        if "tgt_results" in row:
            question = _first_id(row, _QUESTION_IDS, location)
            for pair in list_field(row, "tgt_results", location):
                item, grade = check_type(pair, list, location, "a result", "[document, grade]")
                yield location, question, check_id(item, location, "a document"), _grade(grade, location)
        else:
            question, item = (_first_id(row, (key,), location) for key in ("query-id", "corpus-id"))
            yield location, question, item, _grade(row.get("score"), location)


def _grade(value: Any, location: str) -> float:
    try:
        grade = float(value)
    except (TypeError, ValueError):
        grade = math.nan
    if not math.isfinite(grade):
        raise UserError(location, f"the grade {value!r} is not a number", "expected 0, 1, 2, ...")
    return grade


def _first_id(row: Mapping[str, Any], keys: tuple[str, ...], location: str) -> str:
    for key in keys:
        if row.get(key) is not None:
            return check_id(row[key], location, f"field {key!r}")
    has = ", ".join(sorted(map(str, row))[:12]) or "no fields"
    raise UserError(location, f"field {' or '.join(map(repr, keys))} is missing", f"the row has: {has}")


def _id_lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (location, id, text) of lines with a tab between."""
    for location, line in read_filled_lines(path):
        identity, tab, text = line.partition("\t")
        if not tab:
            raise UserError(location, "has no tab", "expected id, tab, text")
        yield location, identity.strip(), text


def read_qrels(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (location, question id, candidate id, grade) of each judged pair.

    Lines are `question, candidate, grade`, or `question, iteration, candidate, grade`, separated by tabs or
    spaces. A grade of 0 or less is not relevant, a grade above 0 is the candidate's gain in nDCG. A first
    line whose last column is not a number is a header.

    Raises:
        UserError: another number of columns, or a grade that is not a finite number.
    """
    for location, line in read_filled_lines(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) not in (3, 4):
            raise UserError(
                location,
                f"has {len(columns)} columns",
                "expected question, candidate, grade (or TREC's four columns)",
            )
        if location == f"{path} line 1" and not _is_number(columns[-1]):
            continue
        yield location, columns[0].strip(), columns[-2].strip(), _grade(columns[-1], location)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
