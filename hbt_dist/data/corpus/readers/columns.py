"""Map columns of tables and JSON lines to examples (`hbt_dist.data.corpus.settings.ColumnSettings`).

Questions and passages come as objects by language ({"en": ..., "fi": ...}; null where there is none), in one
column per language (`question_{language}`), or in columns of plain texts, whose `language` is named (and
`passage_language`, if it is another).

A passage or negative may also be {"docid": ..., "title": ..., "text": ...} (Tevatron): title, a space and
text, its docid as id. A column of passages may hold lists (FlagEmbedding's `pos`): every passage of a list
makes an example, the first with the row's id, the next with #2, #3, ... behind it. They share the question,
so no batch holds two of them. Negatives are a list, or one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import content_id
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import ColumnSettings
from hbt_dist.data.fields import by_language, check_text, check_type, id_field, language_at, titled_text

_Row = Mapping[str, Any]
_Texts = dict[str, str]


class ColumnMapping:
    """Turns rows with the same columns into records.

    Args:
        columns: the mapping.
        names: of the columns.
        location: for messages: the file, or the line.
        negatives_in_every_row: whether a column of negatives that is named must be there.

    Raises:
        UserError: a column that the mapping names isn't there.
    """

    def __init__(
        self,
        columns: ColumnSettings,
        names: Sequence[str],
        location: str,
        *,
        negatives_in_every_row: bool = True,
    ) -> None:
        self._columns = columns
        self._names = list(names)
        self._location = location
        for name in (columns.example_id, columns.passage_id):
            if name is not None:
                self._must_have(name)
        self._passage_language = columns.passage_language or columns.language
        self._question = self._by_column(columns.question) or self._plain_question
        self._passage = self._by_column(columns.passage)
        negatives = columns.negatives
        if negatives is not None and negatives not in self._names:
            # The default's name may be absent; a resolved run file has it like a given one.
            if negatives_in_every_row and negatives != ColumnSettings().negatives:
                self._must_have(negatives)
            negatives = None
        self._negatives = negatives

    def records(self, row: _Row, number: int, location: str) -> Iterator[TrainingRecord]:
        """Yield the records of a row, one for each of its passages; `number` is its id if no column is."""
        columns = self._columns
        example_id = id_field(row, columns.example_id, location) if columns.example_id else str(number)
        question = self._question(row, location)
        passages = list(self._passages(row, location))
        if columns.passage_id is not None:
            if len(passages) > 1:
                raise UserError(
                    location,
                    f"{columns.passage!r} holds {len(passages)} passages, {columns.passage_id!r} one id",
                    "leave columns.passage_id out: passages with equal texts are one passage",
                )
            passages = [(id_field(row, columns.passage_id, location), passages[0][1])]
        negatives = tuple(self._negative_records(row, location))
        for position, (passage_id, passage) in enumerate(passages, start=1):
            name = example_id if position == 1 else f"{example_id}#{position}"
            yield TrainingRecord(name, passage_id, question, passage, negatives, location)

    def _plain_question(self, row: _Row, location: str) -> _Texts:
        name = self._columns.question
        return self._texts(
            row[name], location, f"column {name!r}", self._columns.language, "columns.language"
        )

    def _passages(self, row: _Row, location: str) -> Iterator[tuple[str, _Texts]]:
        name = self._columns.passage
        if self._passage is not None:
            texts = self._passage(row, location)
            yield content_id(texts), texts
            return
        value = row[name]
        if value == []:
            raise UserError(location, f"column {name!r} is an empty list", "every question needs a passage")
        for inner, item in _items(value, f"column {name!r}", name):
            yield self._identified(item, location, inner)

    def _negative_records(self, row: _Row, location: str) -> Iterator[NegativeRecord]:
        name = self._negatives
        if name is None or row[name] is None:
            return
        for inner, item in _items(row[name], f"column {name!r}", name):
            yield NegativeRecord(*self._identified(item, f"{location}, {inner}", "the negative"))

    def _identified(self, value: object, location: str, field: str) -> tuple[str, _Texts]:
        """Id and texts of a passage: with docid, title and text, plain, or by language."""
        language, setting = self._passage_language, "columns.language, or columns.passage_language"
        if isinstance(value, dict) and "text" in value:
            texts = self._texts(
                titled_text(value, f"{location}, {field}"), location, field, language, setting
            )
            has_id = value.get("docid") is not None
            return id_field(value, "docid", f"{location}, {field}") if has_id else content_id(texts), texts
        texts = self._texts(value, location, field, language, setting)
        return content_id(texts), texts

    def _by_column(self, name: str) -> Callable[[_Row, str], _Texts] | None:
        """Return the reader of one column per language, (row, location) -> texts; None for one column."""
        if "{language}" not in name:
            self._must_have(name)
            return None
        pattern = re.compile("([A-Za-z_-]+)".join(re.escape(part) for part in name.split("{language}", 1)))
        columns = {
            language_at(match[1], self._location): column
            for column in self._names
            if (match := pattern.fullmatch(column))
        }
        if not columns:
            raise UserError(
                self._location, f"has no column like {name!r}", f"its columns are {', '.join(self._names)}"
            )

        def texts(row: _Row, location: str) -> _Texts:
            return _some(
                {language: row[column] for language, column in columns.items()}, location, f"columns {name!r}"
            )

        return texts

    def _texts(self, value: object, location: str, field: str, language: str | None, setting: str) -> _Texts:
        if isinstance(value, str):
            if language is None:
                raise UserError(location, f"{field} is a plain text", f"name its language in {setting}")
            return {language: check_text(value, location, field)}
        return _some(
            check_type(value, dict, location, field, "a text, or texts by language"), location, field
        )

    def _must_have(self, name: str) -> None:
        if name not in self._names:
            raise UserError(
                self._location,
                f"has no column {name!r}",
                f"its columns are {', '.join(self._names)}; map them in columns",
            )


def _items(value: object, field: str, name: str) -> list[tuple[str, object]]:
    """Return (name, item) of each item of a list, or of a single value."""
    if not isinstance(value, list):
        return [(field, value)]
    return [(f"{name}[{number}]", item) for number, item in enumerate(value)]


def _some(value: _Row, location: str, field: str) -> _Texts:
    present = {language: text for language, text in value.items() if text is not None}
    return by_language(present, location, field, check_text)
