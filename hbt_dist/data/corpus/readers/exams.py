"""Read EXAMS: school exam questions with the correct and the wrong choices (Hardalov et al. 2020).

    questions.jsonl[.gz]  {"id", "split": "train" | "dev", "language", "question", "answer",
                           "other_choices": [...], "cluster"?}

or the files of github.com/mhardalov/exams-qa, `data/exams` (exams_upstream.py), which give the same rows.
Rows of one cluster are versions of one question in several languages and become one example; most questions
exist in one language only. The wrong choices are hard negatives, each in its own language (their order
differs between versions). `split: eval` is the dev part of the files, `dev` and `test` are its halves; no
cluster crosses the parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, source_path
from hbt_dist.data.corpus.readers.exams_upstream import find_upstream, read_upstream
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import check_text, id_field, id_or_none, language_field, list_field, text_field
from hbt_dist.data.files import find_any, read_json_lines
from hbt_dist.data.splits import Split, in_split


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
