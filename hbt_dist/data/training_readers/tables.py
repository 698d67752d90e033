"""Tables with a column mapping: Parquet files, and data sets of the Hugging Face hub through `datasets`.

The mapping (`hbt_dist.data.config.ColumnSettings`) says which column holds what. Texts come in one of three
shapes: a column of objects by language ({"en": ..., "fi": ...}; null where there is none), one column per
language (`question_{language}`), or plain text columns in the one `language` that is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hbt_dist.data.config import ColumnSettings, Missing, SourceSettings
from hbt_dist.data.fields import by_language, check_text, id_field, language_at
from hbt_dist.data.files import kind_of
from hbt_dist.data.records import NegativeRecord, TrainingRecord
from hbt_dist.data.training_readers.base import SourceReader, source_path
from hbt_dist.data.training_readers.jsonl import content_id
from hbt_dist.errors import UserError

_ROWS_PER_READ = 1_000
_Row = dict[str, Any]


def open_parquet(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a Parquet file, or all `*.parquet` of a folder in the order of their names."""
    path = source_path(source)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(str(path), "holds no .parquet file", "name the file itself")

    def records() -> Iterator[TrainingRecord]:
        start = 0
        for file in files:
            table = _open_parquet(file)
            mapping = ColumnMapping(source.columns, table.schema_arrow.names, str(file))
            rows = (row for batch in table.iter_batches(_ROWS_PER_READ) for row in batch.to_pylist())
            for number, row in enumerate(rows):
                yield mapping.record(row, start + number, f"{file} row {number}")
            start += table.metadata.num_rows

    return SourceReader(records=records, files=files)


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "check the path of the source") from None
    except (pyarrow.ArrowException, OSError) as error:
        found = str(error).splitlines()[0]
        raise UserError(str(path), f"not a readable Parquet file ({found})", "write it again") from None


def open_hub(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a data set of the hub (or a local folder that `datasets` can load) by name.

    Downloads go where `datasets` keeps them (HF_HOME). Its own fingerprint stands for its content.
    """
    import datasets

    place = f"data set {source.path}"
    try:
        data = datasets.load_dataset(
            str(source.path), source.hub_config, split=source.hub_split, revision=source.hub_revision
        )
    except Exception as error:  # the library raises a dozen kinds for network, name, split and format
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            place, f"cannot be loaded ({found})", "check name, hub_config, hub_split and the network"
        ) from error
    mapping = ColumnMapping(source.columns, data.column_names, place)

    def records() -> Iterator[TrainingRecord]:
        for number, row in enumerate(data):
            yield mapping.record(row, number, f"{place} row {number}")

    return SourceReader(records=records, identity=f"{source.path} {data._fingerprint}")


class ColumnMapping:
    """Turns the rows of a table into records.

    Raises:
        UserError: a column that the mapping names isn't there.
    """

    def __init__(self, columns: ColumnSettings, names: Sequence[str], place: str) -> None:
        self._columns = columns
        self._names = list(names)
        self._place = place
        for name in (columns.example_id, columns.passage_id):
            if name is not None:
                self._must_have(name)
        self._question = self._texts(columns.question)
        self._passage = self._texts(columns.passage)
        negatives = columns.negatives
        if negatives is not None and negatives not in self._names:
            if "negatives" in columns.model_fields_set:
                self._must_have(negatives)
            negatives = None
        self._negatives = negatives

    def record(self, row: _Row, number: int, place: str) -> TrainingRecord:
        """The record of a row; `number` is its id where there is no id column."""
        columns = self._columns
        passage = self._passage(row, place)
        negatives = []
        for position, item in enumerate((row[self._negatives] if self._negatives else None) or []):
            inner = f"{place}, {self._negatives}[{position}]"
            texts = self._plain_or_by_language(item, inner, "the negative")
            negatives.append(NegativeRecord(content_id(texts), texts))
        return TrainingRecord(
            id_field(row, columns.example_id, place) if columns.example_id else str(number),
            id_field(row, columns.passage_id, place) if columns.passage_id else content_id(passage),
            self._question(row, place),
            passage,
            tuple(negatives),
            place,
        )

    def _texts(self, name: str) -> Callable[[_Row, str], dict[str, str]]:
        """A function from (row, place) to the texts of a question or passage."""
        if "{language}" not in name:
            self._must_have(name)
            return lambda row, place: self._plain_or_by_language(row[name], place, f"column {name!r}")
        pattern = re.compile("([A-Za-z_-]+)".join(re.escape(part) for part in name.split("{language}", 1)))
        found = {
            language_at(match[1], self._place): column
            for column in self._names
            if (match := pattern.fullmatch(column))
        }
        if not found:
            raise UserError(
                self._place, f"has no column like {name!r}", f"its columns are {', '.join(self._names)}"
            )

        def texts(row: _Row, place: str) -> dict[str, str]:
            return self._some(
                {language: row[column] for language, column in found.items()}, place, f"columns {name!r}"
            )

        return texts

    def _plain_or_by_language(self, value: object, place: str, field: str) -> dict[str, str]:
        if isinstance(value, str):
            if self._columns.language is None:
                raise UserError(place, f"{field} is a plain text", "name its language in columns.language")
            return {self._columns.language: check_text(value, place, field)}
        if not isinstance(value, dict):
            raise UserError(place, f"{field} is {kind_of(value)}", "expected a text, or texts by language")
        return self._some(value, place, field)

    def _some(self, value: dict[str, Any], place: str, field: str) -> dict[str, str]:
        present = {language: text for language, text in value.items() if text is not None}
        return by_language(present, place, field, check_text)

    def _must_have(self, name: str) -> None:
        if name not in self._names:
            raise UserError(
                self._place,
                f"has no column {name!r}",
                f"its columns are {', '.join(self._names)}; map them in columns",
            )
