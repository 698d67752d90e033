"""Map columns of tables and JSON lines to examples (`hbt_dist.data.corpus.settings.ColumnSettings`).

Questions and passages come as objects by language ({"en": ..., "fi": ...}; null where there is none), in one
column per language (`question_{language}`), or in columns of plain texts. `language` names the language of
plain texts, `language_column` the column that holds each row's language (and `passage_language`,
`passage_language_column`, if the passage's is different).

A passage or negative may also be {"docid": ..., "title": ..., "text": ...} (Tevatron): title, a space and
text, its docid as id. A column of passages may hold lists (FlagEmbedding's `pos`): every passage of a list
makes an example, the first with the row's id, the next with #2, #3, ... behind it. They share the question,
so no batch holds two of them. Negatives are a list, or one, or the columns `negative_{number}`. Objects of
lists, as `datasets` stores a sequence of objects, are lists of objects. Scores of a teacher (`pos_scores`,
`neg_scores`) are numbers in the order of the passages and of the negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import content_id
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.corpus.settings import ColumnSettings
from hbt_dist.data.corpus.tables.column_names import columns_by_language, numbered_columns
from hbt_dist.data.fields import (
    by_language,
    check_score,
    check_text,
    check_type,
    id_field,
    language_at,
    prefix_field,
    titled_text,
)
from hbt_dist.data.languages import is_language

_Row = Mapping[str, Any]
_Texts = dict[str, str]


class ColumnMapping:
    """Turns rows with the same columns into records.

    Args:
        columns: the mapping.
        names: of the columns.
        location: for messages: the file, or the line.
        languages: the requested languages; None for all.

    Attributes:
        has_negatives: whether the rows have a column of negatives.
        unused: columns that give nothing to the records.
        doubtful: column -> language of the unused columns whose suffix could be a language.

    Raises:
        UserError: a column that the mapping names isn't there, or two columns have one language.
    """

    def __init__(
        self,
        columns: ColumnSettings,
        names: Sequence[str],
        location: str,
        languages: Sequence[str] | None = None,
    ) -> None:
        self._columns = columns
        self._names = list(names)
        self._location = location
        self._languages = languages
        self._codes: dict[object, str] = {}  # spelling -> language: there are few, and many rows
        self.doubtful: dict[str, str] = {}
        named = [columns.example_id, columns.passage_id, columns.prefix]
        named += [columns.language_column, columns.passage_language_column]
        for name in named:
            if name is not None:
                self._must_have(name)
        negatives = columns.negatives
        self._negatives = [] if negatives is None else numbered_columns(negatives, self._names)
        self.has_negatives = bool(self._negatives)
        self._passage_score = columns.passage_score if columns.passage_score in self._names else None
        self._negative_scores = self._score_columns(columns.negative_scores)
        scores = {self._passage_score, *self._negative_scores}
        self._used = {name for name in (*named, *self._negatives, *scores) if name is not None}
        self._question = self._by_column(columns.question) or self._plain_question
        self._passage = self._by_column(columns.passage)
        self.unused = [name for name in self._names if name not in self._used]

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
        prefix = prefix_field(row, columns.prefix, location)
        negatives = tuple(self._negative_records(row, location)) if self._negatives else ()
        scores = _scores(row, self._passage_score, len(passages), "passage", location)
        scored = zip(passages, scores, strict=True)
        for position, ((passage_id, passage), score) in enumerate(scored, start=1):
            name = example_id if position == 1 else f"{example_id}#{position}"
            yield TrainingRecord(name, passage_id, question, passage, negatives, location, prefix, score)

    def check_language(self, row: _Row, location: str) -> None:
        """Refuse a fixed language that is in truth the name of a column with the language of each row.

        Raises:
            UserError: the unused column of that name holds a language code, and no setting requests the
                language.
        """
        settings = {"language": self._columns.language, "passage_language": self._columns.passage_language}
        for setting, code in settings.items():
            if code not in self.unused or code in (self._languages or ()):
                continue
            value = row[code]
            if isinstance(value, str) and is_language(value):
                raise UserError(
                    location,
                    f"columns.{setting}: {code!r} is a column, and holds {value!r}",
                    f"if it is the language of the row, write {setting}_column: {code};\n"
                    f"if the texts are in {code!r}, list it in the source's languages",
                )

    def _plain_question(self, row: _Row, location: str) -> _Texts:
        name = self._columns.question
        language = self._row_language(row, location) if isinstance(row[name], str) else None
        return self._texts(row[name], location, f"column {name!r}", language, "language")

    def _row_language(self, row: _Row, location: str) -> str | None:
        column = self._columns.language_column
        return self._columns.language if column is None else self._code(row[column], location)

    def _code(self, written: object, location: str) -> str:
        if not isinstance(written, str) or written not in self._codes:
            code = language_at(written, location)
            self._codes[str(written)] = code
        return self._codes[str(written)]

    def _row_passage_language(self, row: _Row, location: str) -> str | None:
        column = self._columns.passage_language_column
        if column is not None:
            return self._code(row[column], location)
        return self._columns.passage_language or self._row_language(row, location)

    def _passages(self, row: _Row, location: str) -> Iterator[tuple[str, _Texts]]:
        name = self._columns.passage
        if self._passage is not None:
            texts = self._passage(row, location)
            yield content_id(texts), texts
            return
        value = row[name]
        if value == []:
            raise UserError(location, f"column {name!r} is an empty list", "every question needs a passage")
        language = self._row_passage_language(row, location)
        for inner, item in _items(value, f"column {name!r}", name, location):
            yield self._identified(item, location, inner, language)

    def _negative_records(self, row: _Row, location: str) -> Iterator[NegativeRecord]:
        language = self._row_passage_language(row, location)
        for name, scores_name in zip(self._negatives, self._negative_scores, strict=True):
            if row[name] is None:
                continue
            identified = [
                self._identified(item, f"{location}, {inner}", "the negative", language)
                for inner, item in _items(row[name], f"column {name!r}", name, location)
            ]
            scores = _scores(row, scores_name, len(identified), "negative", location)
            for (passage_id, texts), score in zip(identified, scores, strict=True):
                yield NegativeRecord(passage_id, texts, score=score)

    def _identified(
        self, value: object, location: str, field: str, language: str | None
    ) -> tuple[str, _Texts]:
        """Id and texts of a passage: with docid, title and text, plain, or by language."""
        setting = "passage_language"
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
            self._used.add(name)
            return None
        free = [column for column in self._names if column not in self._used]
        columns, doubtful = columns_by_language(name, free, self._languages, self._location)
        self._used.update(columns.values())
        self.doubtful.update(doubtful)
        items = list(columns.items())

        def texts(row: _Row, location: str) -> _Texts:
            present = {language: row[column] for language, column in items if row[column] is not None}
            return by_language(present, location, f"columns {name!r}", check_text)

        return texts

    def _texts(self, value: object, location: str, field: str, language: str | None, setting: str) -> _Texts:
        if isinstance(value, str):
            if language is None:
                raise UserError(
                    location,
                    f"{field} is a plain text",
                    f"name its language in columns.language{_or(setting)}, "
                    f"or the column that holds it in columns.language_column{_or(setting + '_column')}",
                )
            return {language: check_text(value, location, field)}
        content = check_type(value, dict, location, field, "a text, or texts by language")
        present = {code: text for code, text in content.items() if text is not None}
        return by_language(present, location, field, check_text)

    def _score_columns(self, pattern: str | None) -> Sequence[str | None]:
        """Return the column with the scores of each column of negatives."""
        names = numbered_columns(pattern, self._names) if pattern and self._negatives else []
        if names and len(names) != len(self._negatives):
            raise UserError(
                self._location,
                f"expected {counted(len(self._negatives), 'column')} like {pattern!r}, one per column of "
                f"negatives, got {len(names)}",
                "name as many columns, or set columns: {negative_scores: null}",
            )
        return names or [None] * len(self._negatives)

    def _must_have(self, name: str) -> None:
        if name not in self._names:
            raise UserError(
                self._location,
                f"has no column {name!r}",
                f"its columns are {', '.join(self._names)}; map them in columns",
            )


def _or(setting: str) -> str:
    return "" if setting in {"language", "language_column"} else f" or columns.{setting}"


def _scores(row: _Row, name: str | None, count: int, what: str, location: str) -> list[float | None]:
    """Return a teacher's score of each passage or negative; the column may be null or an empty list."""
    if name is None or row[name] in (None, "", []):
        return [None] * count
    values = _items(row[name], f"column {name!r}", name, location)
    if len(values) != count:
        setting = "passage_score" if what == "passage" else "negative_scores"
        raise UserError(
            location,
            f"expected {counted(count, 'score')} in {name!r}, one per {what}, got {len(values):,}",
            f"correct the list, or set columns: {{{setting}: null}}, which reads no scores",
        )
    return [check_score(_number(value), location, inner) for inner, value in values]


def _number(value: object) -> object:
    """Return the number in a text, as CSV holds it; None for an empty text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value) if value.strip() else None
    except ValueError:
        return value


def _items(value: object, field: str, name: str, location: str) -> list[tuple[str, object]]:
    """Return (name, item) of each item of a list, or of a single value."""
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        value = _objects(value, field, location)
    if not isinstance(value, list):
        return [(field, value)]
    return [(f"{name}[{number}]", item) for number, item in enumerate(value)]


def _objects(columns: dict[str, Any], field: str, location: str) -> list[dict[str, Any]]:
    """Return the objects in an object of lists: {"docid": [...], "text": [...]}."""
    lists = {key: value for key, value in columns.items() if value is not None}
    if any(not isinstance(value, list) or len(value) != len(lists["text"]) for value in lists.values()):
        raise UserError(
            location,
            f"{field} is an object of lists of different lengths",
            "expected one item per passage under every key",
        )
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
