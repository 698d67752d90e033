"""Read the package's training format: JSON Lines (`.jsonl`, or `.jsonl.gz`), one example per line.

    {"id": "q1",
     "question": {"en": "Where is Turku?", "fi": "Missä Turku on?"},
     "passage": {"en": "Turku is in Finland.", "fi": "Turku on Suomessa."},
     "passage_id": "p7",
     "negatives": [{"id": "p9", "text": {"en": "Tartu is in Estonia.", "fi": "Tartu on Virossa."}}]}

`id` (unique in the source), `question` and `passage` are needed. `passage_id` says that examples share a
passage; without it passages with equal texts are one. `negatives` and their `id` may be left out. Texts are
objects of language code -> text; codes are ISO 639-1, or ISO 639-3 where there is none. Further fields are
unused, and reported.

Lines of another form are read with `columns`, as tables are (columns.py): FlagEmbedding's, Tevatron's, pairs
in one language per file. Only negatives may be absent from some of the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import ReadingNotes, SourceReader, content_id, source_path
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import ColumnSettings, Missing, SourceSettings
from hbt_dist.data.corpus.tables.mapped import Row, mapped_records
from hbt_dist.data.fields import id_field, id_or_none, object_items, texts_field
from hbt_dist.data.files import read_json_lines

_FIELDS = frozenset({"id", "question", "passage", "passage_id", "negatives"})


def open_jsonl(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a JSON Lines file, or all `*.jsonl` and `*.jsonl.gz` of a folder in the order of their names."""
    path = source_path(source)
    files = [path]
    if path.is_dir():
        files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
        if not files:
            raise UserError(str(path), "holds no .jsonl and no .jsonl.gz file", "name the file itself")
    elif not path.exists():
        raise UserError(str(path), "there is no such file", f"check the path of source {source.name}")
    notes = ReadingNotes()

    def records() -> Iterator[TrainingRecord]:
        rows = (row for file in files for row in read_json_lines(file))
        if source.columns == ColumnSettings():
            return _read(rows, notes)
        return mapped_records(rows, source.columns, languages, notes, ragged=True)

    return SourceReader(records=records, files=files, notes=notes)


def _read(rows: Iterable[Row], notes: ReadingNotes) -> Iterator[TrainingRecord]:
    fields: set[tuple[str, ...]] = set()  # there are few
    for location, row in rows:
        if (names := tuple(row)) not in fields:
            _check_fields(names, location)
            fields.add(names)
            notes.unused.update((name, None) for name in names if name not in _FIELDS)
        yield record_of(row, location)


def _check_fields(names: Sequence[str], location: str) -> None:
    absent = [key for key in ("id", "question", "passage") if key not in names]
    if absent:
        raise UserError(
            location,
            f"field {absent[0]!r} is missing",
            f"the object has: {', '.join(names) or 'no fields'}\n"
            "lines of another form need columns, such as "
            "columns: {question: query, passage: pos, negatives: neg, language: en}",
        )


def record_of(row: Mapping[str, Any], location: str) -> TrainingRecord:
    """Return the record in an object of the format above."""
    example_id = id_field(row, "id", location)
    passage = texts_field(row, "passage", location)
    passage_id = id_or_none(row, "passage_id", location) or content_id(passage)
    negatives = []
    for inner, item in object_items(row, "negatives", location) if row.get("negatives") is not None else ():
        texts = texts_field(item, "text", inner)
        negatives.append(NegativeRecord(id_or_none(item, "id", inner) or content_id(texts), texts))
    return TrainingRecord(
        example_id, passage_id, texts_field(row, "question", location), passage, tuple(negatives), location
    )
