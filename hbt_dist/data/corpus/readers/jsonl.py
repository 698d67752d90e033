"""Read the package's training format: JSON Lines (`.jsonl`, or `.jsonl.gz`), one example per line.

    {"id": "q1",
     "question": {"en": "Where is Turku?", "fi": "Missä Turku on?"},
     "passage": {"en": "Turku is in Finland.", "fi": "Turku on Suomessa."},
     "passage_id": "p7",
     "score": 0.91,
     "negatives": [{"id": "p9", "text": {"en": "Tartu is in Estonia.", "fi": "Tartu on Virossa."},
                    "language": "fi", "score": 0.42}]}

`id` (unique in the source), `question` and `passage` are needed. `passage_id` says that examples share a
passage; without it passages with equal texts are one. `negatives` and their `id` may be left out, `prefix`
(or `prompt`, `instruction`) is an instruction before the question. `score` is a teacher's score of the
question and the passage, `language` the one in which a miner chose the negative; both may be left out or
null. Texts are objects of language code -> text; codes are ISO 639-1, or ISO 639-3 where there is none.
Further fields are unused, and reported.

Lines of another form are read with `columns`, as tables are (columns.py): FlagEmbedding's, Tevatron's, pairs
in one language per file. Only negatives may be absent from some of the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import ReadingNotes, content_id
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import ColumnSettings, SourceSettings
from hbt_dist.data.corpus.tables.usual_columns import usual_columns, usual_prefix
from hbt_dist.data.fields import (
    check_score,
    id_field,
    id_or_none,
    language_among,
    object_items,
    prefix_field,
    texts_field,
)
from hbt_dist.data.tables import Row

_FIELDS = frozenset({"id", "question", "passage", "passage_id", "negatives", "score"})


def pool_records(rows: Iterable[Row]) -> Iterator[TrainingRecord]:
    """Yield the passages in lines of a pool, such as {"id": "p9", "text": {"en": "Tartu is in Estonia."}}.

    Raises:
        UserError: a line has no `text` by language.
    """
    for location, row in rows:
        passage = texts_field(row, "text", location)
        passage_id = id_or_none(row, "id", location) or content_id(passage)
        yield TrainingRecord(passage_id, passage_id, {}, passage, location=location)


def is_training_format(source: SourceSettings, row: Mapping[str, Any]) -> bool:
    """Return whether the lines of a source have the format above, judged by the first one."""
    if source.format != "jsonl" or source.columns != ColumnSettings():
        return False
    return usual_columns(source.columns, tuple(row), "") == source.columns


def training_records(rows: Iterable[Row], notes: ReadingNotes) -> Iterator[TrainingRecord]:
    """Yield the records of lines of the format above."""
    prefixes: dict[tuple[str, ...], str | None] = {}  # by the fields of a line; there are few sets of fields
    for location, row in rows:
        if (names := tuple(row)) not in prefixes:
            _check_fields(names, location)
            prefix = prefixes[names] = usual_prefix(ColumnSettings(), names)
            notes.unused.update((name, None) for name in names if name not in {*_FIELDS, prefix})
            if prefix not in (None, "prefix"):
                notes.columns["prefix"] = prefix
        yield record_of(row, location, prefixes[names])


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


def record_of(row: Mapping[str, Any], location: str, prefix: str | None) -> TrainingRecord:
    """Return the record in an object of the format above, whose instruction is in the field `prefix`."""
    example_id = id_field(row, "id", location)
    passage = texts_field(row, "passage", location)
    passage_id = id_or_none(row, "passage_id", location) or content_id(passage)
    negatives = []
    for inner, item in object_items(row, "negatives", location) if row.get("negatives") is not None else ():
        texts = texts_field(item, "text", inner)
        negatives.append(
            NegativeRecord(
                id_or_none(item, "id", inner) or content_id(texts),
                texts,
                language_among(item.get("language"), texts, inner),
                check_score(item.get("score"), inner, "field 'score'"),
            )
        )
    return TrainingRecord(
        example_id,
        passage_id,
        texts_field(row, "question", location),
        passage,
        tuple(negatives),
        location,
        prefix_field(row, prefix, location),
        check_score(row.get("score"), location, "field 'score'"),
    )
