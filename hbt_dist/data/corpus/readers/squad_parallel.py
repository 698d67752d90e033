"""Read passages and questions in several languages, in two JSON Lines files.

    passages.jsonl[.gz]   {"id": "a000p000", "article": 0, "text": {"en": ..., "fi": ...}}
    questions.jsonl[.gz]  {"id": "a000p000q00", "passage": "a000p000", "text": {"en": ..., "fi": ...}}

`squad-en-fi` is SQuAD 2.0 in Finnish and back-translated English, made of the HTML of TurkuNLP/squad2-fi:
both languages are machine translations, and the English is not SQuAD's. Answer spans are lost, and about a
third of the questions have no answer in their passage.

`split` works by article, so that no passage of a held-out article is trained on: about every 20th article, by
SHA-256 of its number, is evaluation (`squad-en-fi`: 16 of 442 articles, 4,135 questions).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, source_folder
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import id_field, texts_field
from hbt_dist.data.files import find_file, read_json_lines
from hbt_dist.data.splits import Split, in_split, one_in

_HELD_OUT_ONE_IN = 20


def open_squad_parallel(
    source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing
) -> SourceReader:
    """Open a folder with the two files; passages are held in memory while questions stream."""
    files = find_files(source_folder(source))
    return SourceReader(records=lambda: _read(*files, source.split), files=list(files))


def find_files(folder: Path) -> tuple[Path, Path]:
    """Return the passages file and the questions file of a folder."""
    passages, questions = (
        find_file(folder, name, compressed_first=True) for name in ("passages.jsonl", "questions.jsonl")
    )
    return passages, questions


def read_passages(path: Path, split: Split) -> tuple[dict[str, tuple[str, dict[str, str]]], set[str]]:
    """Return the passages of a part, id -> (article, texts); and the ids of passages outside it."""
    passages: dict[str, tuple[str, dict[str, str]]] = {}
    outside: set[str] = set()
    for location, row in read_json_lines(path):
        passage_id = id_field(row, "id", location)
        if passage_id in passages or passage_id in outside:
            raise UserError(location, f"passage id {passage_id!r} was used before", "ids must be unique")
        article = id_field(row, "article", location)
        texts = texts_field(row, "text", location)
        if in_split(split, article, one_in(_HELD_OUT_ONE_IN, article)):
            passages[passage_id] = (article, texts)
        else:
            outside.add(passage_id)
    return passages, outside


def read_questions(
    path: Path, passages: dict[str, tuple[str, dict[str, str]]], outside: set[str]
) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield (location, question id, passage id, texts) of the questions on `passages`."""
    for location, row in read_json_lines(path):
        passage_id = id_field(row, "passage", location)
        texts = texts_field(row, "text", location)
        if passage_id in passages:
            yield location, id_field(row, "id", location), passage_id, texts
        elif passage_id not in outside:
            raise UserError(
                location,
                f"passage {passage_id!r} is not in the passages file",
                "the two files must belong together",
            )


def _read(passages_file: Path, questions_file: Path, split: Split) -> Iterator[TrainingRecord]:
    passages, outside = read_passages(passages_file, split)
    for location, example_id, passage_id, question in read_questions(questions_file, passages, outside):
        yield TrainingRecord(example_id, passage_id, question, passages[passage_id][1], (), location)
