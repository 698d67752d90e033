"""Turn the rows of every file format into records (columns.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import ReadingNotes
from hbt_dist.data.corpus.readers.columns import ColumnMapping
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import ColumnSettings

#: A place for messages, and the row's values by column.
Row = tuple[str, Mapping[str, Any]]


def mapped_records(
    rows: Iterable[Row],
    columns: ColumnSettings,
    languages: tuple[str, ...] | None,
    notes: ReadingNotes,
    *,
    ragged: bool,
) -> Iterator[TrainingRecord]:
    """Yield the records of rows. A row's number, from 0, counts on over the files, and is its default id.

    Args:
        languages: the requested languages; None for all.
        notes: receives the unused columns.
        ragged: whether rows may lack the column of negatives.

    Raises:
        UserError: a row does not fit the mapping.
    """
    mappings: dict[tuple[str, ...], ColumnMapping] = {}  # by set of columns: there are few
    location = ""
    for number, (location, row) in enumerate(rows):
        names = tuple(row)
        if names not in mappings:
            mapping = ColumnMapping(
                columns, names, location, languages=languages, negatives_in_every_row=not ragged
            )
            mapping.check_language(row, location)
            mappings[names] = mapping
        yield from mappings[names].records(row, number, location)
    for mapping in mappings.values():
        notes.unused.update(dict.fromkeys(mapping.unused))
        notes.doubtful.update(mapping.doubtful)
    named = columns.negatives
    absent = mappings and not any(mapping.has_negatives for mapping in mappings.values())
    if absent and named not in (None, ColumnSettings().negatives):
        raise UserError(location, f"no row has a column {named!r}", "correct columns.negatives")
