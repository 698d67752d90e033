"""The passages that have a text in a language, by number: what a random hard negative is drawn from.

Passages are listed by their set of languages, so that one list serves all languages: 4 bytes per passage (8
above 2**32), made in one pass when a passage is first asked for in a language that not all of them have
(.25 s at 10 million). Asking for one costs a search among the sets, whatever the number of passages.

Letters: P passages, S sets, L languages, n passages asked for.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.corpus_view import PlanPassages
from hbt_dist.batching.counter_random import Int64s

_AT_ONCE = 1 << 22  # passages that are counted or sorted in one go: bounds the memory


class Holders:
    """Passage `number` of those in a language, 0 <= number < `count` of the language."""

    def __init__(self, corpus: PlanPassages) -> None:
        self._set_of = corpus.passage_set
        self._has = np.asarray(corpus.set_languages)  # (S, L)
        self._num_passages = corpus.num_passages

    @cached_property
    def count(self) -> Int64s:
        """Passages that have each language (L,)."""
        return self._per_set @ self._has

    def passages(self, number: Int64s, language: NDArray[np.integer]) -> Int64s:
        """Return the passage rows (n,) of these numbers (n,) in the languages beside them (n,)."""
        out = number.copy()
        for wanted in np.unique(language):
            if self.count[wanted] == self._num_passages:
                continue  # every passage has it: the number is the row, and no list is needed
            sets = np.flatnonzero(self._has[:, wanted])
            ends = np.cumsum(self._per_set[sets])
            cells = np.flatnonzero(language == wanted)
            place = np.searchsorted(ends, number[cells], side="right")
            inside = number[cells] - (ends - self._per_set[sets])[place]
            out[cells] = self._by_set[self._first[sets[place]] + inside]
        return out

    @cached_property
    def _per_set(self) -> Int64s:
        counts = np.zeros(len(self._has), np.int64)
        for start in range(0, self._num_passages, _AT_ONCE):
            counts += np.bincount(self._set_of[start : start + _AT_ONCE], minlength=len(counts))
        return counts

    @cached_property
    def _first(self) -> Int64s:
        return np.cumsum(self._per_set) - self._per_set

    @cached_property
    def _by_set(self) -> NDArray[Any]:
        """Passage rows sorted by (set, row): a counting sort, part by part."""
        out: NDArray[Any] = np.empty(
            self._num_passages, np.uint32 if self._num_passages <= 2**32 else np.int64
        )
        short = np.uint16 if len(self._has) <= 2**16 else np.int64  # numpy sorts 16 bits in linear time
        following = self._first.copy()
        for start in range(0, self._num_passages, _AT_ONCE):
            part = np.asarray(self._set_of[start : start + _AT_ONCE]).astype(short)
            order = np.argsort(part, kind="stable")
            counts = np.bincount(part, minlength=len(following))
            shift = following - (np.cumsum(counts) - counts)
            out[np.arange(len(part)) + np.repeat(shift, counts)] = order + start
            following += counts
        return out
