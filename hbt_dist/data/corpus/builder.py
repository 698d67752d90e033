"""Gather records into the columns of a corpus; see `hbt_dist.data.corpus.convert` for cost and use."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import TextTableWriter
from hbt_dist.data.corpus.columns import HashNumbers, StoredColumn
from hbt_dist.data.corpus.corpus import COLUMNS, OPTIONAL_COLUMNS, PREFIX_COLUMNS, Role
from hbt_dist.data.corpus.duplicate_groups import equal_pairs, hash64, merge_groups, text_hash
from hbt_dist.data.corpus.readers.base import content_id, content_key
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import SourceSettings
from hbt_dist.data.instructions import filled

_GROUPS = ("example_group", "passage_group")  # columns that the end of the conversion computes
_NO_SCORE, _NO_LANGUAGE = float("nan"), -1


#: Instructions describe tasks: more different ones are texts in the wrong column.
MOST_PREFIXES = 10_000


@dataclass(frozen=True)
class SourceCount:
    """What a source contributed: kept examples, sorted languages, hard negatives that were the passage."""

    num_examples: int
    languages: list[str]
    repeating_negatives: int


class CorpusBuilder:
    """Call `start_source`, `add`..., `end_source` for each source, then `finish`, inside a `with` block."""

    def __init__(self, folder: Path) -> None:
        self.languages: dict[str, int] = {}  # code -> bit, in order of appearance
        self._questions = TextTableWriter(folder / "questions")
        self._passages = TextTableWriter(folder / "passages")
        self._unfinished = folder / "unfinished"
        self._question_hashes = _HashFiles(self._unfinished / "question_hashes")
        self._passage_hashes = _HashFiles(self._unfinished / "passage_hashes")
        self._columns = {
            name: StoredColumn(self._unfinished / name, np.dtype(COLUMNS[name]).char)
            for name in COLUMNS
            if name not in _GROUPS
        }
        self._columns["negative_offsets"].append(0)
        self._optional = {
            name: StoredColumn(self._unfinished / name, np.dtype(kind).char)
            for name, kind in OPTIONAL_COLUMNS.items()
        }
        self._present: set[str] = set()  # those of the optional columns that have a value
        self._prefix_columns = {
            role: StoredColumn(self._unfinished / name, "i") for role, name in PREFIX_COLUMNS.items()
        }
        self._prefixes: dict[str | None, int] = {None: 0}
        self._filled: set[tuple[str, int]] = set()  # prefixes with the languages that they were filled for
        self._cells: dict[tuple[int, int], int] = {}
        self._sets: dict[int, int] = {}
        self._passage_content = array("Q")
        self._passage_ids = HashNumbers()  # of a source, whose passages follow each other
        self._first_location: dict[tuple[str, int], str] = {}
        self._source = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._questions.__exit__(kind)
        self._passages.__exit__(kind)
        shutil.rmtree(self._unfinished)

    @property
    def num_examples(self) -> int:
        """Return the number of rows so far."""
        return len(self._columns["example_passage"])

    @property
    def num_passages(self) -> int:
        """Return the number of passages so far."""
        return self._passages.num_rows

    @property
    def prefixes(self) -> list[str | None]:
        """Return the prefixes so far; None, the model's, is the first."""
        return list(self._prefixes)

    def start_source(
        self, index: int, source: SourceSettings, languages: tuple[str, ...] | None, *, refuse: bool
    ) -> None:
        """Begin a source.

        Args:
            source: its name and prefixes.
            languages: the requested languages, None for all of the source.
            refuse: whether every example must have all of them.
        """
        self._index, self._source, self._requested, self._refuse = index, source.name, languages, refuse
        self._prefix = {"question": source.question_prefix, "passage": source.passage_prefix}
        self._start = self.num_examples
        self._repeating = 0
        self._passage_ids = HashNumbers()
        self._first_passage = self._passages.num_rows
        self._first_location = {}

    def add(self, record: TrainingRecord) -> None:
        """Add an example, or drop it if its question or passage has no requested language.

        A hard negative with the texts of the passage is left out and counted.

        Raises:
            UserError: a required text is missing; a negative has the passage's own explicit id.
        """
        question = self._select(record.question, "question", record.location)
        passage = self._select(record.passage, "passage", record.location)
        if not question or not passage:
            return
        passage_row = self._passage_row(record.passage_id, passage, record.location)
        row = self._questions.append(record.example_id, question)
        for language, text in question.items():
            self._question_hashes.append(language, row, text_hash(text))
        self._add_prefix(
            "question",
            self._prefix["question"] if record.prefix is None else record.prefix,
            question,
            record.location,
        )
        cell = (self._mask(question), self._mask(passage))
        self._columns["example_passage"].append(passage_row)
        self._columns["example_dataset"].append(self._index)
        self._columns["example_cell"].append(self._cells.setdefault(cell, len(self._cells)))
        self._add_optional("example_score", record.score, _NO_SCORE)
        for negative in record.negatives:
            texts = self._select(negative.passage, f"negative {negative.passage_id!r}", record.location)
            if not texts:
                continue
            negative_row = self._passage_row(negative.passage_id, texts, record.location)
            if negative_row == passage_row:
                if record.passage_id != content_id(record.passage):  # the data name the id
                    raise UserError(
                        record.location,
                        f"negative {negative.passage_id!r} is the passage that answers the question",
                        "remove it from the negatives",
                    )
                self._repeating += 1  # mined negatives often hold the positive
                continue
            self._columns["negatives"].append(negative_row)
            chosen = self.languages[negative.language] if negative.language in texts else None
            self._add_optional("negative_score", negative.score, _NO_SCORE)
            self._add_optional("negative_language", chosen, _NO_LANGUAGE)
        self._columns["negative_offsets"].append(len(self._columns["negatives"]))

    def add_passage(self, record: TrainingRecord) -> bool:
        """Add the passage of a record without its question; return whether it has a requested language."""
        texts = self._select(record.passage, "passage", record.location)
        if texts:
            self._passage_row(record.passage_id, texts, record.location)
        return bool(texts)

    def end_source(self) -> SourceCount:
        """Finish a source: with `refuse` and no languages named, its texts must have all its languages."""
        union = reduce(or_, (mask for _, mask in self._first_location), 0)
        codes = sorted(code for code, bit in self.languages.items() if union >> bit & 1)
        if self._refuse and self._requested is None:
            for (what, mask), location in self._first_location.items():
                absent = [code for code in codes if not mask >> self.languages[code] & 1]
                if absent:
                    raise self._missing(what, absent[0], codes, location)
        return SourceCount(self.num_examples - self._start, codes, self._repeating)

    def finish(
        self, languages: tuple[str, ...]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.bool_]]]:
        """Return the integer columns of the corpus and its language tables, in the order of `languages`.

        Columns can be mapped from files that end with the `with` block.
        """
        columns = {name: column.values() for name, column in self._columns.items()}
        if len(self._prefixes) > 1:
            columns |= {
                PREFIX_COLUMNS[role]: column.values() for role, column in self._prefix_columns.items()
            }
        columns |= {name: self._optional[name].values() for name in OPTIONAL_COLUMNS if name in self._present}
        if "negative_language" in columns:
            index = np.full(len(self.languages) + 1, _NO_LANGUAGE)  # the last for -1
            index[[self.languages[language] for language in languages]] = range(len(languages))
            columns["negative_language"] = index[columns["negative_language"]]
        columns["example_group"], columns["passage_group"] = merge_groups(
            columns["example_passage"],
            self._passages.num_rows,
            self._question_hashes.pairs(),
            self._passage_hashes.pairs(),
        )
        tables = {
            "cell_questions": self._table([question for question, _ in self._cells], languages),
            "cell_passages": self._table([passage for _, passage in self._cells], languages),
            "set_languages": self._table(list(self._sets), languages),
        }
        return columns, tables

    def _table(self, masks: list[int], languages: tuple[str, ...]) -> NDArray[np.bool_]:
        bits = [self.languages[language] for language in languages]
        return np.array([[mask >> bit & 1 for bit in bits] for mask in masks], bool)

    def _select(self, texts: dict[str, str], what: str, location: str) -> dict[str, str]:
        """Return the requested languages of `texts`; with `refuse`, none may be absent."""
        requested = texts if self._requested is None else self._requested
        absent = [language for language in requested if language not in texts]
        if absent and self._refuse:
            raise self._missing(what, absent[0], list(requested), location)
        chosen = {language: texts[language] for language in requested if language in texts}
        self._first_location.setdefault((what.split(maxsplit=1)[0], self._mask(chosen)), location)
        return chosen

    def _missing(self, what: str, language: str, languages: list[str], location: str) -> UserError:
        reason = "the source has" if self._requested is None else "the run file asks for"
        return UserError(
            location,
            f"{what} has no text in {language!r}",
            f"{reason} languages [{', '.join(languages)}] in source {self._source} with missing: refuse\n"
            "add the translation, name fewer languages for the source, or set data.missing: skip",
        )

    def _add_optional(self, column: str, value: float | None, none: float) -> None:
        self._optional[column].append(none if value is None else value)
        if value is not None:
            self._present.add(column)

    def _add_prefix(self, role: Role, prefix: str | None, texts: dict[str, str], location: str) -> None:
        """Add the prefix of a question or passage; refuse one that cannot be filled for its languages."""
        if prefix is not None and (key := (prefix, self._mask(texts))) not in self._filled:
            self._filled.add(key)
            try:
                for language in texts:
                    filled(prefix, language)
            except UserError as error:
                raise UserError(f"{location}, {error.location}", error.problem, error.remedy) from None
            if len(self._prefixes) > MOST_PREFIXES:
                raise UserError(
                    location,
                    f"source {self._source} has more than {MOST_PREFIXES:,} different prefixes",
                    "expected instructions of tasks; set columns: {prefix: null}, or name another column",
                )
        self._prefix_columns[role].append(self._prefixes.setdefault(prefix, len(self._prefixes)))

    def _mask(self, texts: dict[str, str]) -> int:
        return sum(1 << self.languages.setdefault(language, len(self.languages)) for language in texts)

    def _passage_row(self, passage_id: str, texts: dict[str, str], location: str) -> int:
        """Return the row of a passage, added if it is new; the same id must have the same texts."""
        content = hash64(content_key(texts))
        row = self._first_passage + self._passage_ids.number(hash64(passage_id))
        if row < self._passages.num_rows:
            if self._passage_content[row] != content:
                raise UserError(
                    location,
                    f"passage {passage_id!r} has different texts or languages than at its first occurrence",
                    "give different passages different ids",
                )
            return row
        self._passages.append(passage_id, texts)
        self._add_prefix("passage", self._prefix["passage"], texts, location)
        self._passage_content.append(content)
        self._columns["passage_set"].append(self._sets.setdefault(self._mask(texts), len(self._sets)))
        for language, text in texts.items():
            self._passage_hashes.append(language, row, text_hash(text))
        return row


class _HashFiles:
    """(row, hash) pairs per language, kept in files while a corpus is built."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._columns: dict[str, tuple[StoredColumn, StoredColumn]] = {}

    def append(self, language: str, row: int, value: int) -> None:
        if language not in self._columns:
            self._columns[language] = (
                StoredColumn(self._folder / f"{language}.rows", "q"),
                StoredColumn(self._folder / f"{language}.hashes", "Q"),
            )
        rows, hashes = self._columns[language]
        rows.append(row)
        hashes.append(value)

    def pairs(self) -> Iterator[NDArray[np.int64]]:
        """Yield (n, 2) rows with equal hashes, one array per language."""
        for rows, hashes in self._columns.values():
            yield equal_pairs(rows.values(), hashes.values())
