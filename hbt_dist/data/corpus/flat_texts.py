"""Present all texts of a role as one sequence, language by language, in the order of the rows.

Encoders take sequences. A corpus has a text for some pairs of row and language only. The sequence keeps
the rows of each language: 8 bytes per text, none for a language that every row has. Slices read the texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.corpus.corpus import Corpus, Role

_TEXTS_AT_ONCE = 4096


class FlatTexts(Sequence[str]):
    """The texts of a role; text `offsets[l] + i` is the i-th row that has language l.

    Attributes:
        offsets: (L + 1,) int64, the first text of each language.
    """

    def __init__(self, corpus: Corpus, role: Role) -> None:
        self.corpus, self.role = corpus, role
        self._num_rows = corpus.num_examples if role == "question" else corpus.num_passages
        self._rows = [self._rows_with(language) for language in range(len(corpus.languages))]
        counts = [self._num_rows if rows is None else len(rows) for rows in self._rows]
        self.offsets = np.cumsum([0, *counts], dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.corpus, self.role))  # another process counts the rows itself

    def __len__(self) -> int:
        return int(self.offsets[-1])

    @overload
    def __getitem__(self, texts: int) -> str: ...

    @overload
    def __getitem__(self, texts: slice) -> list[str]: ...

    def __getitem__(self, texts: int | slice) -> str | list[str]:
        if isinstance(texts, int):
            return self._read(range(len(self))[texts : texts + 1 or None])[0]
        return self._read(range(len(self))[texts])

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            yield from self[start : start + _TEXTS_AT_ONCE]

    def rows(self, language: int) -> NDArray[np.int64]:
        """Return the rows that have a language index, in order."""
        rows = self._rows[language]
        return np.arange(self._num_rows) if rows is None else rows

    def numbers(self, rows: NDArray[np.integer], language: int) -> NDArray[np.int64]:
        """Return the number of each row's text in a language, which the rows must have: (n,)."""
        known = self._rows[language]
        inside = np.asarray(rows, np.int64) if known is None else np.searchsorted(known, rows)
        return self.offsets[language] + inside

    def sources(self, texts: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and language index of each text of a contiguous part: (n,) each."""
        parts = list(self._parts(texts))
        rows = [self.rows(language)[inside.start : inside.stop] for language, inside in parts]
        languages = [np.full(len(inside), language) for language, inside in parts]
        empty = np.empty(0, np.int64)
        return np.concatenate([empty, *rows]), np.concatenate([empty, *languages])

    def locate(self, numbers: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return row and language index of texts in any order, given by their numbers; of their shape."""
        languages = np.searchsorted(self.offsets, numbers, side="right") - 1
        rows = numbers - self.offsets[languages]
        for language, known in enumerate(self._rows):
            if known is not None:
                inside = languages == language
                rows[inside] = known[rows[inside]]
        return rows, languages

    def _rows_with(self, language: int) -> NDArray[np.int64] | None:
        """Return the rows with a language; None if all have it."""
        corpus = self.corpus
        if self.role == "question":
            has = corpus.cell_questions[corpus.example_cell, language]
        else:
            has = corpus.set_languages[corpus.passage_set, language]
        return None if has.all() else np.flatnonzero(has)

    def _parts(self, texts: range) -> Iterator[tuple[int, range]]:
        """Yield (language, range of its texts) of the languages that a contiguous part touches."""
        for language in range(len(self._rows)):
            start, stop = self.offsets[language : language + 2].tolist()
            first, last = max(texts.start, start), min(texts.stop, stop)
            if first < last:
                yield language, range(first - start, last - start)

    def _read(self, texts: range) -> list[str]:
        if texts.step != 1:
            raise ValueError("only contiguous texts can be taken")
        read = self.corpus.question_texts if self.role == "question" else self.corpus.passage_texts
        strings: list[str] = []
        for language, inside in self._parts(texts):
            rows = self._rows[language]
            if rows is None:
                first, last = inside.start, inside.stop
            else:
                first, last = int(rows[inside.start]), int(rows[inside.stop - 1]) + 1
            strings += [text for text in read(language, first, last) if text is not None]
        return strings
