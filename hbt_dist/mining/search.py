"""Search the best candidates of a block of examples in one language of the pool, exactly.

faiss's flat search finds the candidates, part by part of the pool, on a GPU where there is one. Its float32
sums depend on the size of a batch, on threads and on the device. So every pair that it returns is scored once
more: the sum of products in float64, rounded to float32. A list is complete when its last candidate scores
above what faiss left out, by more than the error of its sums; otherwise the example is searched again, four
times as deep. Lists are therefore equal for every block size, number of threads and device, and equal scores
are in the order of the pool.

Letters: n examples, m their questions, d depth of the search, W length of the lists, D embedding width, N
candidates. A candidate is a text of the pool, `FlatTexts(corpus, "passage")`: language by language. Keys are
64-bit numbers of score and candidate (`ranking_keys`); 0 is an empty entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.block_scores import decode_keys, ranking_keys
from hbt_dist.evaluation.faiss_lists import load_faiss, open_searcher
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, check_rows, read_rows

#: Candidates searched beyond the length of the lists: for the positive, and to see that a list is complete.
EXTRA = 17
#: Bytes of the vectors that are searched at once, and pairs of question and candidate that are kept at once.
PART_BYTES, PAIRS = 2**27, 2**21
#: Bytes per such pair, while lists are merged and scored.
PAIR_BYTES = 72
#: Bytes of vectors that are multiplied at once in float64, and those of a value of a pair of them.
_PRODUCT_BYTES, _VALUE_BYTES = 2**26, 24
_LARGEST_POOL = 2**32 - 1

Keys = NDArray[np.uint64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Questions:
    """The questions of a block's examples, example by example."""

    vectors: Float32  # (m, D)
    starts: Int64  # (n + 1,) those of example i are starts[i]..starts[i + 1] - 1

    def of(self, examples: Int64) -> tuple[Int64, Int64]:
        """Return the questions of some examples (k,), one after another, and where each begins: (k + 1,)."""
        counts = self.starts[examples + 1] - self.starts[examples]
        starts = np.concatenate([[0], np.cumsum(counts)])
        return np.arange(starts[-1]) + np.repeat(self.starts[examples] - starts[:-1], counts), starts


class Pool:
    """The candidates: texts and vectors, and the order of those with equal scores.

    Args:
        texts: N passage texts of a corpus.
        vectors: (N, D).

    Raises:
        UserError: the vectors are not those of the texts.
    """

    def __init__(self, texts: FlatTexts, vectors: Rows) -> None:
        if len(texts) > _LARGEST_POOL:
            raise UserError(
                "mining", f"expected at most {_LARGEST_POOL:,} texts, got {len(texts):,}", "split"
            )
        self.texts, self.vectors = texts, vectors

    def keys(self, scores: Float32, candidates: Int64) -> Keys:
        """Return the keys of scored candidates: the first of the pool ranks above the later ones."""
        return ranking_keys(scores, (len(self.texts) - candidates).astype(np.uint32))

    def decode(self, keys: Keys) -> tuple[Float32, Int64]:
        """Return scores and candidates of keys; empty keys give the first candidate."""
        scores, order = decode_keys(keys)
        return scores, np.where(keys > 0, len(self.texts) - order.astype(np.int64), 0)

    def passages(self, keys: Keys) -> tuple[Int64, Int64]:
        """Return passage row and language index of each key; -1 where it is empty."""
        rows, languages = self.texts.locate(self.decode(keys)[1])
        return np.where(keys > 0, rows, -1), np.where(keys > 0, languages, -1)


class PoolSearch:
    """Search lists of candidates that are not of the example's group.

    Args:
        pool: to search in.
        device: of faiss; the CPU if it is a GPU that this build of faiss cannot use.
        num_threads: of faiss on the CPU; 0: all.

    Raises:
        UserError: faiss is not installed.
    """

    def __init__(self, pool: Pool, device: torch.device, num_threads: int = 0) -> None:
        self._pool = pool
        faiss = load_faiss("mining", "")
        if num_threads:
            faiss.omp_set_num_threads(num_threads)
        self._open_searcher = open_searcher(faiss, device)

    @cached_property
    def _passage_group(self) -> Int64:
        return np.asarray(self._pool.texts.corpus.passage_group)

    def lists(
        self, questions: Questions, examples: Int64, group: Int64, language: int, length: int
    ) -> tuple[Keys, int]:
        """Return the best candidates of examples in a language, without those of their group.

        Args:
            examples: (k,) examples of `questions`.
            group: (k,) their groups.
            language: index of the language.
            length: W.

        Returns:
            (k, W) keys, best first; and how many of the groups' candidates would be in the lists.

        Raises:
            UserError: a vector that cannot be ranked.
        """
        start, stop = self._pool.texts.offsets[language : language + 2].tolist()
        lists, excluded = np.zeros((len(examples), length), np.uint64), 0
        waiting, depth = np.arange(len(examples) if stop > start else 0), length + EXTRA
        while len(waiting):
            depth = min(depth, stop - start)
            incomplete = []
            for some in _parts(waiting, questions, examples, depth):
                keys, floor = self._nearest(questions, examples[some], range(start, stop), depth)
                in_group = self._is_of_group(keys, group[some])
                free = (keys > 0) & ~in_group
                rank = np.cumsum(free, axis=1)
                done = (depth == stop - start) | (self._last_score(keys, free & (rank == length)) > floor)
                excluded += int((in_group & (rank < length))[done].sum())
                kept, column = np.nonzero(free & (rank <= length) & done[:, None])
                lists[some[kept], rank[kept, column] - 1] = keys[kept, column]
                incomplete.append(some[~done])
            waiting, depth = np.concatenate(incomplete), 4 * depth
        return lists, excluded

    def _is_of_group(self, keys: Keys, group: Int64) -> Bools:
        rows = self._pool.passages(keys)[0]
        return (rows >= 0) & (self._passage_group[rows] == group[:, None])

    def _last_score(self, keys: Keys, is_last: Bools) -> Float32:
        """Return the score of the last candidate of each list; minus infinity if the list has fewer."""
        last = np.where(is_last, keys, 0).max(axis=1)
        return np.where(last > 0, decode_keys(last)[0], np.float32(-np.inf))

    def _nearest(
        self, questions: Questions, examples: Int64, texts: range, depth: int
    ) -> tuple[Keys, Float32]:
        """Return the best candidates that faiss finds, (k, depth) keys, best first, each candidate once.

        Also returns (k,) the score that no other candidate exceeds.
        """
        rows, starts = questions.of(examples)
        keys, floor = self._search(questions.vectors[rows], texts, depth)
        counts = np.diff(starts)
        floor = np.maximum.reduceat(floor, starts[:-1])
        merged = np.zeros((len(examples), depth), np.uint64)
        for count in np.unique(counts).tolist():  # rows of one length take no padding
            chosen = np.flatnonzero(counts == count)
            of_questions = keys[starts[chosen, None] + np.arange(count)]
            best = best_first(of_questions.reshape(len(chosen), -1))
            if count > 1:  # the best score of each candidate
                best = without_repeats(best, self._pool.decode(best)[1])[:, :depth]
            merged[chosen] = best
        return merged, floor

    def _search(self, questions: Float32, texts: range, depth: int) -> tuple[Keys, Float32]:
        """Return the keys of the best `depth` candidates by faiss's sums, (m, depth), with exact scores.

        Also returns (m,) the score that no other candidate exceeds.
        """
        pool, size = self._pool, len(questions)
        width = questions.shape[1]
        rows_at_once = max(1, PART_BYTES // (4 * width))
        kept, exact = np.zeros((size, 0), np.uint64), np.zeros((size, 0), np.float32)
        largest = 0.0
        for first in range(texts.start, texts.stop, rows_at_once):
            part = np.empty((min(rows_at_once, texts.stop - first), width), np.float32)
            read_rows(pool.vectors, slice(first, first + len(part)), part)
            largest = max(largest, check_rows(part, partial(self._name, first), "passage"))
            scores, rows = self._open_searcher(part)(questions, min(depth, len(part)))
            kept = np.concatenate([kept, pool.keys(np.ascontiguousarray(scores), rows + first)], axis=1)
            exact = np.concatenate([exact, np.full(scores.shape, np.nan, np.float32)], axis=1)
            if kept.shape[1] > depth:
                best = np.argpartition(kept, -depth, axis=1)[:, -depth:]
                kept, exact = np.take_along_axis(kept, best, 1), np.take_along_axis(exact, best, 1)
            new = np.isnan(exact)
            exact[new] = pair_scores(questions, np.nonzero(new)[0], part, pool.decode(kept[new])[1] - first)
        lengths = np.sqrt(np.einsum("md,md->m", questions, questions, dtype=np.float64))
        floor = decode_keys(kept.min(axis=1))[0] + error_bound(width) * lengths * largest
        return pool.keys(exact, pool.decode(kept)[1]), floor.astype(np.float32)

    def _name(self, first: int, number: int) -> str:
        texts = self._pool.texts
        row, language = texts.locate(np.array([first + number]))
        return f"{texts.corpus.passage_id(int(row[0]))} in {texts.corpus.languages[int(language[0])]}"


def error_bound(width: int) -> float:
    """Return the largest error of a float32 sum of `width` products, of vectors of length 1, in any order."""
    unit = width * 2.0**-24
    return 1.01 * unit / (1 - unit)


def pair_scores(left: Float32, left_rows: Int64, right: Float32, right_rows: Int64) -> Float32:
    """Return the products of pairs of vectors, summed in float64 and rounded once: (n,)."""
    scores = np.empty(len(left_rows), np.float32)
    at_once = max(1, _PRODUCT_BYTES // (_VALUE_BYTES * left.shape[1]))
    for start in range(0, len(scores), at_once):
        pairs = slice(start, start + at_once)
        scores[pairs] = np.einsum(
            "nd,nd->n", left[left_rows[pairs]].astype(np.float64), right[right_rows[pairs]].astype(np.float64)
        )
    return scores


def best_first(keys: Keys) -> Keys:
    """Return keys sorted in each row, largest first."""
    return np.ascontiguousarray(np.sort(keys, axis=1)[:, ::-1])


def without_repeats(keys: Keys, names: Int64) -> Keys:
    """Return sorted keys, emptied where a better key of the row has the same name, and sorted again."""
    order = np.argsort(names, axis=1, kind="stable")
    ordered = np.take_along_axis(names, order, 1)
    repeats = np.zeros(keys.shape, np.bool_)
    np.put_along_axis(repeats, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return best_first(np.where(repeats, np.uint64(0), keys))


def _parts(waiting: Int64, questions: Questions, examples: Int64, depth: int) -> Iterator[Int64]:
    """Cut examples into parts whose pairs are kept at once, at least one example each."""
    counts = questions.starts[examples[waiting] + 1] - questions.starts[examples[waiting]]
    part = np.cumsum(counts * depth) // PAIRS
    yield from np.split(waiting, np.flatnonzero(np.diff(part)) + 1)
