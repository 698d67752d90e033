"""Describe the corpus that batching reads: arrays of integers for the plan, texts for the token store.

`hbt_dist.data.corpus.corpus.Corpus` has all of it; the plan never touches a text.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Role = Literal["question", "passage"]


class PlanPassages(Protocol):
    """The passages of a corpus in integers: P passages, L languages, S sets of languages."""

    @property
    def num_passages(self) -> int:
        """P."""

    @property
    def passage_group(self) -> NDArray[np.int64]:
        """(P,) group of a passage, numbered as `example_group`."""

    @property
    def passage_set(self) -> NDArray[np.int32]:
        """(P,) index into `set_languages`."""

    @property
    def set_languages(self) -> NDArray[np.bool_]:
        """(S, L) the languages that passages of a set have."""

    def passage_has(
        self, rows: NDArray[np.integer], language: NDArray[np.integer] | int
    ) -> NDArray[np.bool_]:
        """Whether each passage row has a text in its language; both broadcast."""


class PlanCorpus(PlanPassages, Protocol):
    """The integer side of a corpus: E examples, P passages, L languages, C availability cells."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes; a language index is a position here."""

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names; a data set index is a position here."""

    @property
    def alignment(self) -> tuple[bool, ...]:
        """Per dataset: question and passage are one text in one language, so such a row teaches nothing."""

    @property
    def fingerprint(self) -> str:
        """Identify the content: another text or order gives another fingerprint."""

    @property
    def num_examples(self) -> int:
        """E."""

    @property
    def example_passage(self) -> NDArray[np.int64]:
        """(E,) passage row of the positive."""

    @property
    def example_group(self) -> NDArray[np.int64]:
        """(E,) rows of one group must not meet in a batch."""

    @property
    def example_dataset(self) -> NDArray[np.int32]:
        """(E,) index into `datasets`."""

    @property
    def example_cell(self) -> NDArray[np.int32]:
        """(E,) index into `cell_questions` and `cell_passages`."""

    @property
    def cell_questions(self) -> NDArray[np.bool_]:
        """(C, L) the question languages that examples of a cell have."""

    @property
    def cell_passages(self) -> NDArray[np.bool_]:
        """(C, L) the passage languages that examples of a cell have."""

    @property
    def negative_offsets(self) -> NDArray[np.int64]:
        """(E + 1,) where the hard negatives of an example begin and end in `negatives`."""

    @property
    def negatives(self) -> NDArray[np.int64]:
        """Passage rows of the hard negatives, example after example."""


class TextCorpus(PlanCorpus, Protocol):
    """The text side of a corpus, as the token store and the inspection read it."""

    def example_id(self, row: int) -> str:
        """The id of an example, as its file gives it."""

    def passage_id(self, row: int) -> str:
        """The id of a passage."""

    def question_text(self, row: int, language: int | str) -> str:
        """The question of an example in a language."""

    def passage_text(self, row: int, language: int | str) -> str:
        """The text of a passage in a language."""

    def question_texts(
        self, language: int | str, start: int = 0, stop: int | None = None
    ) -> list[str | None]:
        """Questions of rows start to stop, None where the language is missing."""

    def passage_texts(self, language: int | str, start: int = 0, stop: int | None = None) -> list[str | None]:
        """Passages of rows start to stop, None where the language is missing."""
