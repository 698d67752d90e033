"""MKQA: natural questions in many languages, and short answers to some of them (apple/ml-mkqa).

    questions_only.jsonl[.gz]  {"id": "...", "question": {"en": ..., "fi": ...}}
    with_answers.jsonl[.gz]    the same plus "answers": {"en": ["..."], "fi": ["..."]}

content: questions pairs a question with itself in another language: alignment rows, trivial within one
language. content: answers pairs it with its first answer: weak, as in sv, fi, ms, tr and es about 80 % of the
answers equal the English one, and popular answers ("yes") repeat (the corpus keeps equal ones apart).
`split` goes by file, train is questions_only and eval is with_answers, and dev and test by question id.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_dist.data.config import Missing, SourceSettings
from hbt_dist.data.fields import by_language, check_text, id_field, required, texts_field
from hbt_dist.data.files import kind_of, read_json_lines
from hbt_dist.data.records import TrainingRecord
from hbt_dist.data.splits import Split, in_split
from hbt_dist.data.training_readers.base import SourceReader, source_folder
from hbt_dist.errors import UserError

_TRAINING, _HELD_OUT = "questions_only.jsonl", "with_answers.jsonl"


def find_files(folder: Path, split: Split) -> list[Path]:
    """The files that hold a part, compressed or not."""
    files = []
    for name in {"train": (_TRAINING,), "all": (_TRAINING, _HELD_OUT)}.get(split, (_HELD_OUT,)):
        there = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
        if not there:
            raise UserError(str(folder), f"holds neither {name}.gz nor {name}", "check the folder")
        files.append(there[0])
    return files


def open_mkqa(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a folder with the two files."""
    split = source.split
    if source.content == "answers":
        files = find_files(source_folder(source), "eval")
        return SourceReader(records=lambda: _read_answers(files, split), files=files)
    files = find_files(source_folder(source), split)
    return SourceReader(records=lambda: _read_questions(files, split), files=files, alignment=True)


def read_rows(files: list[Path], split: Split) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (place, question id, row) of a part."""
    for path in files:
        held_out = path.name.removesuffix(".gz") == _HELD_OUT
        for place, row in read_json_lines(path):
            identity = id_field(row, "id", place)
            if in_split(split, identity, held_out):
                yield place, identity, row


def _read_questions(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    for place, identity, row in read_rows(files, split):
        texts = texts_field(row, "question", place)
        yield TrainingRecord(identity, identity, texts, texts, (), place)


def _read_answers(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    for place, identity, row in read_rows(files, split):
        answers = by_language(required(row, "answers", place), place, "field 'answers'", _first_answer)
        yield TrainingRecord(identity, identity, texts_field(row, "question", place), answers, (), place)


def _first_answer(value: object, place: str, field: str) -> str:
    if not isinstance(value, list):
        raise UserError(place, f"{field} is {kind_of(value)}", "expected a list of texts")
    if not value:
        raise UserError(place, f"{field} is an empty list", "expected at least one answer")
    return check_text(value[0], place, field)
