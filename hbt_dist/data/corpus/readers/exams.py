"""Read EXAMS: school exam questions with the correct and the wrong choices (Hardalov et al. 2020).

    questions.jsonl[.gz]  {"id", "split": "train" | "dev", "language", "question", "answer",
                           "other_choices": [...], "cluster"?}

or the files of github.com/mhardalov/exams-qa, `data/exams`, which give the same rows:

    multilingual/train.jsonl.tar.gz  {"id", "question": {"stem", "choices": [{"text", "label"}, ...]},
    multilingual/dev.jsonl.tar.gz     "answerKey", "info": {"language": "Hungarian", "subject", "grade"}}
    parallel_questions.jsonl         {"<id>": ["<id>", ...]}, a question and its versions in other languages

Versions of a question that train and dev hold make one cluster there, numbered by their smallest id; the test
part is not read.
Rows of one cluster are versions of one question in several languages and become one example; most questions
exist in one language only. The wrong choices are hard negatives, each in its own language (their order
differs between versions). `split: eval` is the dev part of the files, `dev` and `test` are its halves; no
cluster crosses the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.console import counted, note_once
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, source_path
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import (
    check_text,
    id_field,
    id_or_none,
    language_field,
    list_field,
    object_field,
    object_items,
    required,
    text_field,
)
from hbt_dist.data.files import find_any, kind_of, read_json_lines
from hbt_dist.data.splits import Split, in_split

_PARTS = ("train", "dev")
_ENDINGS = (".jsonl.tar.gz", ".jsonl.gz", ".jsonl")
_PARALLEL = ("parallel_questions.jsonl", "parallel_questions.jsonl.gz")


@dataclass(frozen=True, slots=True)
class ExamRow:
    """One question in one language; `other_choices` never hold the answer."""

    location: str
    row_id: str
    cluster: str | None
    language: str
    question: str
    answer: str
    other_choices: tuple[str, ...]


def find_files(path: Path) -> list[Path]:
    """Return the flat file (`path` or in it), or upstream's train, dev and parallel questions."""
    if not path.is_dir():
        return [path]
    flat = find_any(path, ("questions.jsonl.gz", "questions.jsonl"))
    upstream = [flat] if flat is not None else find_upstream(path)
    if upstream is None:
        raise UserError(
            str(path),
            "holds neither questions.jsonl.gz nor questions.jsonl, nor upstream's "
            "multilingual/train.jsonl.tar.gz",
            "check the folder; github.com/mhardalov/exams-qa has data/exams",
        )
    return upstream


def open_exams(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open the files; held in memory to join the rows of a cluster (10,631 rows)."""
    files = find_files(source_path(source))
    return SourceReader(records=lambda: _read(files, source.split), files=files)


def read_rows(files: list[Path], split: Split) -> Iterator[ExamRow]:
    """Yield the rows of a part."""
    rows = read_json_lines(files[0]) if len(files) == 1 else read_upstream(*files)
    for location, row in rows:
        part = text_field(row, "split", location)
        if part not in ("train", "dev"):
            raise UserError(location, f"field 'split' is {part!r}", "expected train or dev")
        row_id = id_field(row, "id", location)
        cluster = id_or_none(row, "cluster", location)
        if not in_split(split, cluster or row_id, part == "dev"):
            continue
        answer = text_field(row, "answer", location)
        choices = [
            check_text(choice, location, f"other_choices[{number}]")
            for number, choice in enumerate(list_field(row, "other_choices", location))
        ]
        yield ExamRow(
            location,
            row_id,
            cluster,
            language_field(row, "language", location),
            text_field(row, "question", location),
            answer,
            tuple(choice for choice in choices if choice.split() != answer.split()),
        )


def _read(files: list[Path], split: Split) -> Iterator[TrainingRecord]:
    examples: dict[str, list[ExamRow]] = {}
    for row in read_rows(files, split):
        versions = examples.setdefault(row.row_id if row.cluster is None else f"cluster-{row.cluster}", [])
        if any(row.language == version.language for version in versions):
            name = row.row_id if row.cluster is None else row.cluster
            raise UserError(row.location, f"{name!r} occurs twice in {row.language!r}", "ids must be unique")
        versions.append(row)
    for example_id, versions in examples.items():
        yield TrainingRecord(
            example_id,
            example_id,
            {row.language: row.question for row in versions},
            {row.language: row.answer for row in versions},
            tuple(
                NegativeRecord(f"{row.row_id}-{number}", {row.language: choice})
                for row in versions
                for number, choice in enumerate(row.other_choices)
            ),
            versions[0].location,
        )


def find_upstream(folder: Path) -> list[Path] | None:
    """Return train, dev and parallel questions; None if the folder (or its `multilingual`) has no train part.

    Raises:
        UserError: the train part is present without the rest.
    """
    for part_folder in (folder, folder / "multilingual"):
        train, dev = (find_any(part_folder, [part + ending for ending in _ENDINGS]) for part in _PARTS)
        if train is None:
            continue
        parallel = find_any(part_folder, _PARALLEL) or find_any(part_folder.parent, _PARALLEL)
        if dev is None or parallel is None:
            raise UserError(
                str(part_folder),
                f"holds train questions, but {_PARALLEL[0] if dev else 'dev.jsonl.tar.gz'} is missing",
                "copy multilingual/ and parallel_questions.jsonl of data/exams, both as they are",
            )
        return [train, dev, parallel]
    return None


def read_upstream(train: Path, dev: Path, parallel: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) with the fields of the flat layout; all rows are held in memory to join them.

    A question whose key names none of its choices, or an empty one, is left out with a note.
    """
    every = [
        (location, _flat(row, part, location))
        for part, path in zip(_PARTS, (train, dev), strict=True)
        for location, row in read_json_lines(path)
    ]
    rows = [(location, flat) for location, flat in every if flat is not None]
    if unanswered := len(every) - len(rows):
        note_once(f"{train.parent}: left out {counted(unanswered, 'question')} whose key names no choice")
    cluster_of = _clusters(parallel, {str(row["id"]): str(row["language"]) for _, row in rows})
    for location, row in rows:
        yield location, {**row, "cluster": cluster_of.get(row["id"])}


def _flat(row: Mapping[str, Any], part: str, location: str) -> dict[str, Any] | None:
    question, info = object_field(row, "question", location), object_field(row, "info", location)
    key, answer, wrong = text_field(row, "answerKey", location), None, []
    for inner, choice in object_items(question, "choices", f"{location}, question"):
        text = required(choice, "text", inner)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        check_text(text, inner, "field 'text'")
        if required(choice, "label", inner) == key:
            answer = text
        else:
            wrong.append(text)
    if answer is None:
        return None
    return {
        "id": id_field(row, "id", location),
        "split": part,
        "language": language_field(info, "language", f"{location}, info"),
        "question": text_field(question, "stem", f"{location}, question"),
        "answer": answer,
        "other_choices": wrong,
    }


def _clusters(parallel: Path, language_of: Mapping[str, str]) -> dict[str, str]:
    """Return question id -> cluster, for questions with a version in another language among `language_of`.

    Versions are joined through further versions, including those of upstream's test part. Two versions in one
    language would be two answers to one question: the version with the smaller id stays.
    """
    from scipy.cluster.hierarchy import DisjointSet

    versions = DisjointSet(language_of)
    for location, row in read_json_lines(parallel):
        for question_id, version_ids in row.items():
            if not isinstance(version_ids, list) or not all(isinstance(item, str) for item in version_ids):
                raise UserError(
                    location, f"{question_id!r} has {kind_of(version_ids)}", "expected a list of ids"
                )
            for version_id in version_ids:
                versions.add(question_id)
                versions.add(version_id)
                versions.merge(question_id, version_id)
    members: dict[str, dict[str, str]] = {}
    for question_id in sorted(language_of):
        members.setdefault(versions[question_id], {}).setdefault(language_of[question_id], question_id)
    clusters = sorted(sorted(ids.values()) for ids in members.values() if len(ids) > 1)
    return {question_id: f"c{number:04d}" for number, ids in enumerate(clusters) for question_id in ids}
