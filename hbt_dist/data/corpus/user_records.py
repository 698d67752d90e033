"""Check what a user-defined reader yields, and name the record and line of code of every mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import user_error
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.fields import by_language, check_score, check_text, check_type, language_among
from hbt_dist.data.files import kind_of

_REMEDY = "see hbt_dist/data/corpus/records.py; negatives are a tuple"


def checked_records(
    records: Callable[[], Iterable[TrainingRecord]], name: str, source: str
) -> Iterator[TrainingRecord]:
    """Yield the records of a user-defined reader, with languages as this package spells them.

    Args:
        records: of the reader.
        name: ``module:function``.
        source: its name.

    Raises:
        UserError: the reader raised an exception, or a record is not a valid `TrainingRecord`.
    """
    last = "before the first record"
    try:
        for number, row in enumerate(records()):
            record = _checked(row, f"source {source}, record {number} of {name}")
            last = f"after record {number}, {record.example_id!r}"
            yield record
    except UserError:
        raise
    except Exception as error:  # the user's function can raise anything
        raise user_error(error, name, f"source {source}, {last}") from error


def _checked(row: object, number: str) -> TrainingRecord:
    if not isinstance(row, TrainingRecord):
        raise UserError(number, f"expected a TrainingRecord, got {type(row).__name__}", _REMEDY)
    location = f"{number}, {row.location}" if row.location else number
    if not isinstance(row.negatives, tuple):
        raise UserError(location, f"negatives are {kind_of(row.negatives)}", _REMEDY)
    return replace(
        row,
        example_id=check_text(row.example_id, location, "example_id"),
        passage_id=check_text(row.passage_id, location, "passage_id"),
        question=by_language(row.question, location, "question", check_text),
        passage=by_language(row.passage, location, "passage", check_text),
        negatives=tuple(_checked_negative(item, location) for item in row.negatives),
        location=row.location or number,
        prefix=None if row.prefix is None else check_type(row.prefix, str, location, "prefix", "a text"),
        score=check_score(row.score, location, "score"),
    )


def _checked_negative(item: object, location: str) -> NegativeRecord:
    if not isinstance(item, NegativeRecord):
        raise UserError(location, f"expected a NegativeRecord, got {type(item).__name__}", _REMEDY)
    passage_id = check_text(item.passage_id, location, "passage_id of a negative")
    texts = by_language(item.passage, location, "a negative", check_text)
    language = language_among(item.language, texts, location)
    return NegativeRecord(
        passage_id, texts, language, check_score(item.score, location, "score of a negative")
    )
