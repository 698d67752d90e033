"""MKQA: natural questions in many languages, and short answers to some of them (apple/ml-mkqa).

Upstream's file (`dataset/mkqa.jsonl.gz`), or the two files of the MIA 2022 shared task, joined by question:

    mkqa.jsonl[.gz]            {"example_id": 5632, "queries": {"en": ..., "zh_cn": ...},
                                "answers": {"en": [{"type": "entity", "text": "...", ...}], ...}, ...}
    questions_only.jsonl[.gz]  {"id": "...", "question": {"en": ..., "fi": ...}}
    with_answers.jsonl[.gz]    the same plus "answers": {"en": ["..."], "fi": ["..."]}

content: questions pairs a question with itself in another language: alignment rows, trivial within one
language. content: answers pairs it with its first answer: weak, as in sv, fi, ms, tr and es about 80 % of the
answers equal the English one, and popular answers ("yes") repeat (the corpus keeps equal ones apart);
questions without a short answer are left out. `split`: the 1,758 questions of with_answers are eval in both
layouts (upstream's file does not tell them apart, mkqa_held_out.txt has their ids), all others are train:
5,000 of questions_only, 8,242 of upstream's 10,000. dev and test go by question id.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, source_folder
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import by_language, check_text, id_field, required, texts_field
from hbt_dist.data.files import kind_of, read_json_lines
from hbt_dist.data.splits import Split, in_split

_TRAINING, _HELD_OUT, _UPSTREAM = "questions_only.jsonl", "with_answers.jsonl", "mkqa.jsonl"


def find_files(folder: Path, split: Split) -> list[Path]:
    """The files that hold a part, compressed or not: of the two that are split, or else upstream's one.

    Raises:
        UserError: the folder (or `dataset` in it, as upstream has it) holds neither.
    """
    names = {"train": (_TRAINING,), "all": (_TRAINING, _HELD_OUT)}.get(split, (_HELD_OUT,))
    found = [_find(folder, name) for name in names]
    files = [path for path in found if path is not None]
    if len(files) == len(names):
        return files
    upstream = _find(folder, _UPSTREAM) or _find(folder / "dataset", _UPSTREAM)
    if upstream is None:
        absent = names[found.index(None)]
        raise UserError(
            str(folder),
            f"holds neither {absent}.gz nor {absent}, nor upstream's {_UPSTREAM}.gz",
            "check the folder; github.com/apple/ml-mkqa has dataset/mkqa.jsonl.gz",
        )
    return [upstream]


def _find(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def open_mkqa(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a folder with the two files, or upstream's one."""
    split = source.split
    if source.content == "answers":
        files = find_files(source_folder(source), "eval")
        return SourceReader(records=lambda: _read_answers(files, split), files=files)
    files = find_files(source_folder(source), split)
    return SourceReader(records=lambda: _read_questions(files, split), files=files, alignment=True)


def read_questions(files: list[Path], split: Split) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (place, question id, texts by language) of a part."""
    for place, identity, row in _read_rows(files, split):
        yield place, identity, texts_field(row, "queries" if "queries" in row else "question", place)


def _read_rows(files: list[Path], split: Split) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in files:
        name = path.name.removesuffix(".gz")
        upstream = name == _UPSTREAM
        for place, row in read_json_lines(path):
            identity = id_field(row, "example_id" if upstream else "id", place)
            held_out = identity in _held_out_ids() if upstream else name == _HELD_OUT
            if in_split(split, identity, held_out):
                if upstream:
                    required(row, "queries", place)
                yield place, identity, row


@lru_cache(maxsize=1)
def _held_out_ids() -> frozenset[str]:
    text = resources.files(__package__).joinpath("mkqa_held_out.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _read_questions(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    for place, identity, texts in read_questions(files, split):
        yield TrainingRecord(identity, identity, texts, texts, (), place)


def _read_answers(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    for place, identity, row in _read_rows(files, split):
        upstream = "queries" in row
        first = _first_upstream_answer if upstream else _first_answer
        found = by_language(required(row, "answers", place), place, "field 'answers'", first)
        answers = {language: text for language, text in found.items() if text}
        if answers:
            questions = texts_field(row, "queries" if upstream else "question", place)
            yield TrainingRecord(identity, identity, questions, answers, (), place)


def _first_answer(value: object, place: str, field: str) -> str:
    return check_text(_answers(value, place, field)[0], place, field)


def _first_upstream_answer(value: object, place: str, field: str) -> str:
    """The text of the first answer; "" for those that have none (unanswerable, or answered at length)."""
    first = _answers(value, place, field)[0]
    if not isinstance(first, dict):
        raise UserError(place, f"{field} holds {kind_of(first)}", 'expected objects: {"text": "..."}')
    text = required(first, "text", place)
    return "" if text is None or text == "" else check_text(text, place, field)


def _answers(value: object, place: str, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(place, f"{field} is {kind_of(value)}", "expected a list of texts")
    if not value:
        raise UserError(place, f"{field} is an empty list", "expected at least one answer")
    return value
