"""What batching asks of a corpus: arrays of integers for the plan, texts for the token store.

`hbt_dist.data.corpus.Corpus` has all of it; the plan never touches a text.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class PlanCorpus(Protocol):
    """The integer side of a corpus: E examples, P passages, L languages, C availability cells."""

    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def datasets(self) -> tuple[str, ...]: ...
    @property
    def alignment(self) -> tuple[bool, ...]:
        """Per dataset: question and passage are one text in one language, so such a row teaches nothing."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def num_examples(self) -> int: ...
    @property
    def num_passages(self) -> int: ...
    @property
    def example_passage(self) -> NDArray[np.int64]:
        """(E,) passage row of the positive."""

    @property
    def example_group(self) -> NDArray[np.int64]:
        """(E,) rows of one group may not meet in a batch."""

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
    def passage_group(self) -> NDArray[np.int64]:
        """(P,) group of a passage, numbered as `example_group`."""

    @property
    def negative_offsets(self) -> NDArray[np.int64]:
        """(E + 1,) where the hard negatives of an example begin and end in `negatives`."""

    @property
    def negatives(self) -> NDArray[np.int64]:
        """Passage rows of the hard negatives, example after example."""

    def passage_has(
        self, rows: NDArray[np.integer], language: NDArray[np.integer] | int
    ) -> NDArray[np.bool_]:
        """Whether each passage row has a text in the language beside it."""


class TextCorpus(PlanCorpus, Protocol):
    """The text side of a corpus, as the token store and the inspection read it."""

    def example_id(self, row: int) -> str: ...
    def passage_id(self, row: int) -> str: ...
    def question_text(self, row: int, language: int | str) -> str: ...
    def passage_text(self, row: int, language: int | str) -> str: ...
    def question_texts(
        self, language: int | str, start: int = 0, stop: int | None = None
    ) -> list[str | None]: ...
    def passage_texts(
        self, language: int | str, start: int = 0, stop: int | None = None
    ) -> list[str | None]: ...
