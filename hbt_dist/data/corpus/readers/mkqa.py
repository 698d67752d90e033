"""Read MKQA: natural questions in many languages, and short answers to some of them (apple/ml-mkqa).

Upstream's file (`dataset/mkqa.jsonl.gz`), or the two files of the MIA 2022 shared task, joined by question:

    mkqa.jsonl[.gz]            {"example_id": 5632, "queries": {"en": ..., "zh_cn": ...},
                                "answers": {"en": [{"type": "entity", "text": "...", ...}], ...}, ...}
    questions_only.jsonl[.gz]  {"id": "...", "question": {"en": ..., "fi": ...}}
    with_answers.jsonl[.gz]    the same plus "answers": {"en": ["..."], "fi": ["..."]}

content: questions pairs a question with itself in another language: alignment rows, trivial within one
language. content: answers pairs it with its first answer: weak, as in sv, fi, ms, tr and es about 80 % of the
answers equal the English one, and popular answers ("yes") repeat (the corpus keeps equal ones apart);
questions without a short answer are left out. `split`: the 1,758 questions of with_answers are eval in both
layouts (upstream's file does not separate them, mkqa_held_out.txt has their ids), all others are train:
5,000 of questions_only, 8,242 of upstream's 10,000. dev and test go by question id. Upstream has traditional
Chinese twice: zh_tw is read as zh-hant, zh_hk is left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from hbt_dist.common.console import counted, note_once
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, source_folder
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import by_language, check_text, check_type, id_field, required, texts_field
from hbt_dist.data.files import find_any, read_json_lines
from hbt_dist.data.splits import Split, in_split

_TRAINING, _HELD_OUT, _UPSTREAM = "questions_only.jsonl", "with_answers.jsonl", "mkqa.jsonl"


def find_files(folder: Path, split: Split) -> list[Path]:
    """Return the files that hold a part, compressed or not: of the two split files, or else upstream's file.

    Raises:
        UserError: the folder (or `dataset` in it, as upstream has it) holds neither.
    """
    names = {"train": (_TRAINING,), "all": (_TRAINING, _HELD_OUT)}.get(split, (_HELD_OUT,))
    paths = [_find(folder, name) for name in names]
    files = [path for path in paths if path is not None]
    if len(files) == len(names):
        return files
    upstream = _find(folder, _UPSTREAM) or _find(folder / "dataset", _UPSTREAM)
    if upstream is None:
        absent = names[paths.index(None)]
        raise UserError(
            str(folder),
            f"holds neither {absent}.gz nor {absent}, nor upstream's {_UPSTREAM}.gz",
            "check the folder; github.com/apple/ml-mkqa has dataset/mkqa.jsonl.gz",
        )
    return [upstream]


def _find(folder: Path, name: str) -> Path | None:
    return find_any(folder, (f"{name}.gz", name))


def open_mkqa(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a folder with the two files, or upstream's file."""
    split = source.split
    if source.content == "answers":
        files = find_files(source_folder(source), "eval")
        return SourceReader(records=lambda: _read_answers(files, split), files=files)
    files = find_files(source_folder(source), split)
    return SourceReader(records=lambda: _read_questions(files, split), files=files, alignment=True)


def read_questions(files: list[Path], split: Split) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield (location, question id, texts by language) of a part."""
    for location, identity, row in _read_rows(files, split):
        yield location, identity, texts_field(row, "queries" if "queries" in row else "question", location)


def _read_rows(files: list[Path], split: Split) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path in files:
        name = path.name.removesuffix(".gz")
        upstream, left_out = name == _UPSTREAM, 0
        for location, row in read_json_lines(path):
            identity = id_field(row, "example_id" if upstream else "id", location)
            held_out = identity in _held_out_ids() if upstream else name == _HELD_OUT
            if in_split(split, identity, held_out):
                kept = _without_hong_kong(row, location) if upstream else row
                left_out += kept != row
                yield location, identity, kept
        if left_out:
            reason = "traditional Chinese as zh_tw is"
            note_once(f"{path}: left out zh_hk of {counted(left_out, 'question')}, {reason}")


def _without_hong_kong(row: dict[str, Any], location: str) -> dict[str, Any]:
    """Return upstream's row without zh_hk where it has zh_tw too: both are traditional Chinese."""
    versions = {"queries": required(row, "queries", location), "answers": row.get("answers")}
    return row | {
        key: {code: value for code, value in texts.items() if code != "zh_hk"}
        for key, texts in versions.items()
        if isinstance(texts, dict) and "zh_tw" in texts
    }


@lru_cache(maxsize=1)
def _held_out_ids() -> frozenset[str]:
    text = resources.files(__package__).joinpath("mkqa_held_out.txt").read_text("utf-8")
    return frozenset(line for line in text.splitlines() if not line.startswith("#"))


def _read_questions(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    for location, identity, texts in read_questions(files, split):
        yield TrainingRecord(identity, identity, texts, texts, (), location)


def _read_answers(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    unanswered = 0
    for location, identity, row in _read_rows(files, split):
        upstream = "queries" in row
        first = _first_upstream_answer if upstream else _first_answer
        texts = by_language(required(row, "answers", location), location, "field 'answers'", first)
        answers = {language: text for language, text in texts.items() if text}
        if answers:
            questions = texts_field(row, "queries" if upstream else "question", location)
            yield TrainingRecord(identity, identity, questions, answers, (), location)
        unanswered += not answers
    if unanswered:
        note_once(f"{files[0]}: left out {counted(unanswered, 'question')} without a short answer")


def _first_answer(value: object, location: str, field: str) -> str:
    return check_text(_first(value, location, field), location, field)


def _first_upstream_answer(value: object, location: str, field: str) -> str:
    """Return the text of the first answer; "" if it has none (unanswerable, or answered at length)."""
    answer = check_type(
        _first(value, location, field),
        dict,
        location,
        f"the first answer of {field}",
        'objects: {"text": "..."}',
    )
    text = required(answer, "text", location)
    return "" if text is None or text == "" else check_text(text, location, field)


def _first(value: object, location: str, field: str) -> Any:
    answers = check_type(value, list, location, field, "a list of answers")
    if not answers:
        raise UserError(location, f"{field} is an empty list", "expected at least one answer")
    return answers[0]
