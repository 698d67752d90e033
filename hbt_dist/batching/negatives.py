"""Draw the hard negatives of a batch: from lists, then random passages where the lists have too few.

The hard negatives of an example are visited in a rotation, so over epochs all of them are used. A passage
of the row's group (the positive, its translations, passages with the same text or question) is never
a negative of the row. A row whose example has too few in the required language gets passages drawn at random
among those in the language: 4,096 of them in about 2 ms for every number of passages
(benchmarks/results/batching_negatives.md).

Letters: B rows, n negatives per row, P passages, S sets of languages, L languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int32s, Int64s, below, derive_key
from hbt_dist.batching.negative_languages import NegativeLanguages, check_languages, too_few_passages
from hbt_dist.batching.settings import HardNegativeSettings
from hbt_dist.batching.strata import blocks, row_type, scatter
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.shared_arrays import Space, shared_array

_LOOK_AHEAD = 16  # candidates of an example that are checked at once
_RANDOM_ROUNDS = 24
_LIST_VERSION = 1  # of the file that lists passages by language
_WALK = 4096  # passages that are checked at once

Bools = NDArray[np.bool_]


def unused_negatives(corpus: Corpus, settings: HardNegativeSettings) -> list[str]:
    """Return a line each if hard negatives of the corpus, or their `language`, are not used: `count` is 0."""
    if settings.count:
        return []
    available = int(corpus.negative_offsets[-1])
    unused = [f"{available:,} hard negatives are"] if available else []
    if settings.language != HardNegativeSettings().language:
        unused.append("batches.hard_negatives.language is")
    return [f"{subject} not used: batches.hard_negatives.count is 0" for subject in unused]


@dataclass(frozen=True)
class NegativeLists:
    """The hard negatives of every example: those of the corpus, or those that a phase of training has mined.

    Attributes:
        offsets: (E + 1,) int64; those of example i are offsets[i] to offsets[i + 1] of the flat columns.
        passage: flat int64, passage rows of the corpus.
        language: flat int32, language in which a miner chose each, which the passage has; -1: not recorded.
        score: flat float32, of a teacher; NaN: not scored.
    """

    offsets: Int64s
    passage: Int64s
    language: Int32s | None = None
    score: NDArray[np.float32] | None = None

    @classmethod
    def of(cls, corpus: Corpus) -> Self:
        """Return the lists of a corpus."""
        return cls(
            np.asarray(corpus.negative_offsets),
            np.asarray(corpus.negatives),
            corpus.negative_language,
            corpus.negative_score,
        )

    def scores(self, number: Int64s) -> NDArray[np.float32] | None:
        """Return the scores of negatives by their numbers, NaN for the number -1; None without scores."""
        if self.score is None:
            return None
        scores = np.full(number.shape, np.nan, np.float32)
        scores[number >= 0] = self.score[number[number >= 0]]
        return scores


class HardNegatives:
    """The hard negatives of a plan; those of the corpus unless `with_lists` replaces them.

    Args:
        corpus: source of the rows.
        settings: number and language of the negatives.
        languages: every language that a passage of the plan can have, ascending.
        pairs: languages of question and passage of the plan's rows, ascending.
        seed: of the run.

    Raises:
        UserError: a row cannot have negatives in the languages that the settings ask for.
    """

    def __init__(
        self,
        corpus: Corpus,
        settings: HardNegativeSettings,
        languages: Int32s,
        pairs: Sequence[tuple[int, int]],
        seed: int,
    ) -> None:
        self._corpus, self._settings, self._seed = corpus, settings, seed
        self._languages = NegativeLanguages(settings, languages, seed)
        self._lists = NegativeLists.of(corpus)
        if settings.count:
            check_languages(settings, corpus, pairs, languages, self._by_language.count)

    @property
    def lists(self) -> NegativeLists:
        """What the negatives are drawn from."""
        return self._lists

    def with_lists(self, lists: NegativeLists) -> HardNegatives:
        """Return the same draws from different lists."""
        negatives = copy(self)
        negatives._lists = lists
        return negatives

    @cached_property
    def _by_language(self) -> PassagesByLanguage:
        return PassagesByLanguage(self._corpus)

    def draw(
        self, step: int, example: Int64s, question: Int32s, passage: Int32s
    ) -> tuple[Int64s, Int32s, Int64s]:
        """Return passage rows, their languages, and their numbers in the lists: (B, n) each.

        The number is -1 where a passage was drawn at random.

        Args:
            step: of the batch.
            example: (B,) examples.
            question, passage: (B,) their languages.

        Raises:
            UserError: a language has too few passages for the count.
        """
        count = self._settings.count
        shape = (len(example), count)
        if not count:
            return np.empty(shape, np.int64), np.empty(shape, np.int32), np.empty(shape, np.int64)
        language = self._languages.draw(step, question, passage)
        group = np.asarray(self._corpus.example_group)[example]
        key = derive_key("negatives", self._seed, step)
        chosen, number = self._from_data(example, group, language, key)
        self._fill(chosen, group, language, key)
        return chosen, language, number

    def _from_data(self, example: Int64s, group: Int64s, language: Int32s, key: int) -> tuple[Int64s, Int64s]:
        """Return the hard negatives that the data has, and their numbers: (B, n), -1 where it has too few.

        A candidate takes the first free column of its row whose language it has. With `language: random` it
        takes the first free column or none; with `mined` it brings its language, written to `language`.
        """
        num_rows, count = language.shape
        chosen, number = np.full((2, num_rows, count), -1, np.int64)
        offsets = self._lists.offsets
        first, available = offsets[example], offsets[example + 1] - offsets[example]
        turn = below(key, example, np.maximum(available, 1))
        num_chosen = np.zeros(num_rows, np.int64)
        seen = np.zeros(num_rows, np.int64)
        while len(rows := np.flatnonzero((num_chosen < count) & (seen < available))):
            ahead = seen[rows, None] + np.arange(count + _LOOK_AHEAD)
            exists = ahead < available[rows, None]
            rotated = first[rows, None] + (turn[rows, None] + ahead) % available[rows, None]
            passage = self._lists.passage[rotated]
            for column in range(ahead.shape[1]):
                active = np.flatnonzero(exists[:, column] & (num_chosen[rows] < count))
                row, candidate, numbered = rows[active], passage[active, column], rotated[active, column]
                accepted = self._accepted(language[row], numbered)
                fits = (chosen[row] < 0) & self._corpus.passage_has(candidate[:, None], accepted)
                if self._settings.language == "random":
                    fits[np.arange(count) != num_chosen[row, None]] = False
                good = fits.any(axis=1) & self._is_foreign(candidate, group[row])
                good &= ~(chosen[row] == candidate[:, None]).any(axis=1)
                taken = (row[good], fits[good].argmax(axis=1))
                chosen[taken], number[taken] = candidate[good], numbered[good]
                language[taken] = accepted[good, taken[1]]
                num_chosen[row[good]] += 1
            seen[rows] += count + _LOOK_AHEAD
        return chosen, number

    def _accepted(self, language: Int32s, number: Int64s) -> Int32s:
        """Return the languages in which a row would have a candidate, column by column: (r, n)."""
        if self._settings.language != "mined" or self._lists.language is None:
            return language
        mined = np.asarray(self._lists.language)[number, None]
        return np.where(mined < 0, language, mined)

    def _is_foreign(self, passage: Int64s, group: Int64s | int) -> Bools:
        """Whether each passage is of a different group than its row."""
        return np.asarray(self._corpus.passage_group)[passage] != group

    def _fill(self, chosen: Int64s, group: Int64s, language: Int32s, key: int) -> None:
        """Put random passages that have the language where `chosen` is -1."""
        count = chosen.shape[1]
        empty = np.flatnonzero(chosen.ravel() < 0)
        for attempt in range(_RANDOM_ROUNDS):
            if not len(empty):
                return
            row, code = empty // count, language.ravel()[empty]
            available = self._by_language.count[code]
            if not available.all():
                raise self._too_few(int(code[available == 0][0]))
            number = below(key, empty * _RANDOM_ROUNDS + attempt + 2**40, available)
            candidate = self._by_language.passages(number, code)
            good = self._is_foreign(candidate, group[row])
            good &= ~(chosen[row] == candidate[:, None]).any(axis=1)
            # If two cells of a row draw the same passage in one attempt, the first keeps it.
            once = np.zeros(len(row), np.bool_)
            once[np.unique(row * self._corpus.num_passages + candidate, return_index=True)[1]] = True
            good &= once
            chosen.ravel()[empty[good]] = candidate[good]
            empty = empty[~good]
        for cell in empty.tolist():  # few passages in the language, or most of them in the row's group
            row, column = divmod(cell, count)
            chosen[row, column] = self._first_free(
                chosen[row], group[row], int(language[row, column]), key, cell
            )

    def _first_free(self, taken: Int64s, group: int, language: int, key: int, cell: int) -> int:
        """Return the first passage in the language that the row can have, from a random one on."""
        available = int(self._by_language.count[language])
        start = int(below(key, np.array([cell]), available)[0])
        for done in range(0, available, _WALK):
            number = (start + np.arange(done, min(done + _WALK, available))) % available
            passages = self._by_language.passages(number, np.full(len(number), language))
            free = self._is_foreign(passages, group) & ~np.isin(passages, taken)
            if free.any():
                return int(passages[free.argmax()])
        raise self._too_few(language)

    def _too_few(self, language: int) -> UserError:
        return too_few_passages(self._corpus, language, self._settings.count)


class PassagesByLanguage:
    """Numbers the passages of a language: 0 <= number < `count` of the language.

    Passages are listed by their set of languages, so that one list serves all languages: 4 bytes per passage
    and node (8 above 2**31). It is made in blocks, at the first draw in a language that not all passages
    have. A draw costs a search among the sets, for every number of passages.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._set_of = corpus.passage_set
        self._has = np.asarray(corpus.set_languages)  # (S, L)
        self._num_passages = corpus.num_passages

    @cached_property
    def count(self) -> Int64s:
        """Passages that have each language (L,)."""
        return self._per_set @ self._has

    def passages(self, number: Int64s, language: NDArray[np.integer]) -> Int64s:
        """Return the passage rows of numbers in languages: (m,), (m,) -> (m,)."""
        passages = number.copy()
        for code in np.unique(language):
            if self.count[code] == self._num_passages:
                continue  # every passage has it: the number is the row, and no list is needed
            sets = np.flatnonzero(self._has[:, code])
            ends = np.cumsum(self._per_set[sets])
            rows = np.flatnonzero(language == code)
            in_set = np.searchsorted(ends, number[rows], side="right")
            inside = number[rows] - (ends - self._per_set[sets])[in_set]
            passages[rows] = self._by_set[self._first[sets[in_set]] + inside]
        return passages

    @cached_property
    def _per_set(self) -> Int64s:
        counts = np.zeros(len(self._has), np.int64)
        for part in blocks(self._num_passages):
            counts += np.bincount(self._set_of[part], minlength=len(counts))
        return counts

    @cached_property
    def _first(self) -> Int64s:
        return np.cumsum(self._per_set) - self._per_set

    @cached_property
    def _by_set(self) -> NDArray[np.integer]:
        """Passage rows sorted by (set, row), shared by the processes of a node."""
        dtype = row_type(self._num_passages)

        def make(space: Space) -> tuple[NDArray[np.integer], None]:
            out, following = space.empty("passages", self._num_passages, dtype), self._first.copy()
            for part in blocks(self._num_passages):
                rows = np.arange(part.start, part.stop, dtype=dtype)
                scatter(rows, np.asarray(self._set_of[part]), following, out)
            return out, None

        recipe = {"version": _LIST_VERSION, "corpus": self._corpus.fingerprint}
        size = self._num_passages * np.dtype(dtype).itemsize
        return shared_array("passages", recipe, self._corpus.folder, size, make)[0]
