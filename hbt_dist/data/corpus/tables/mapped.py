"""Turn the rows of every file format into records (columns.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import ReadingNotes
from hbt_dist.data.corpus.readers.columns import ColumnMapping
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import SCORE_COLUMNS, ColumnSettings
from hbt_dist.data.corpus.tables.column_names import numbered_columns
from hbt_dist.data.corpus.tables.usual_columns import usual_columns, usual_prefix
from hbt_dist.data.tables import Row


def mapped_records(
    rows: Iterable[Row], columns: ColumnSettings, languages: tuple[str, ...] | None, notes: ReadingNotes
) -> Iterator[TrainingRecord]:
    """Yield the records of rows. A row's number, from 0, counts on over the files, and is its default id.

    Only the columns of negatives, scores and prefixes may be absent from some of the rows.

    Args:
        columns: names of columns; left out, the usual names count (usual_columns.py).
        languages: the requested languages; None for all.
        notes: receives the columns by usual names, and the unused ones.

    Raises:
        UserError: a row does not fit the mapping.
    """
    mappings: dict[tuple[str, ...], ColumnMapping] = {}  # by set of columns: there are few
    chosen, location = columns, ""
    for number, (location, row) in enumerate(rows):
        names = tuple(row)
        if names not in mappings:
            if not mappings:
                chosen = usual_columns(columns, names, location)
                notes.columns = {key: value for key, value in chosen if value != getattr(columns, key)}
            prefix = usual_prefix(columns, names)
            if prefix not in (None, columns.prefix):
                notes.columns["prefix"] = str(prefix)
            mapped = chosen.model_copy(update={"prefix": prefix})
            mappings[names] = ColumnMapping(mapped, names, location, languages)
            mappings[names].check_language(row, location)
        yield from mappings[names].records(row, number, location)
    for mapping in mappings.values():
        notes.unused.update(dict.fromkeys(mapping.unused))
        notes.doubtful.update(mapping.doubtful)
    if columns.prefix not in (None, ColumnSettings().prefix) and not any(
        columns.prefix in names for names in mappings
    ):
        raise UserError(location, f"no row has a column {columns.prefix!r}", "correct columns.prefix")
    for setting in SCORE_COLUMNS:
        column = getattr(columns, setting)
        default = ColumnSettings.model_fields[setting].default
        if column not in (None, default) and not any(numbered_columns(column, names) for names in mappings):
            raise UserError(location, f"no row has a column {column!r}", f"correct columns.{setting}")
    absent = mappings and not any(mapping.has_negatives for mapping in mappings.values())
    if absent:
        notes.columns.pop("negatives", None)
    if absent and columns.negatives not in (None, ColumnSettings().negatives):
        raise UserError(location, f"no row has a column {columns.negatives!r}", "correct columns.negatives")
