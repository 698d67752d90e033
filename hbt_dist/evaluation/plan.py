"""Plan a scoring pass: orders, the block grid, and the owner of each relevant row, the same for every shard.

Scores are products of fixed blocks of `block_candidates` x `block_questions` vectors on one grid over the
whole benchmark. The last bits of a matrix product depend on its shape and on the position of a row in it.
On this grid both are the same for every number of shards, processes or threads, and so are scores, ties and
ranks. Shards are cut at block boundaries.

Candidates are laid out by language (a language is one range of columns), questions by their first relevant
candidate (so that the few blocks that hold the relevant pairs of a question block lie together).

Pairs of a question and a candidate that its rankings leave out (`Benchmark.excluded`) are tracked like
relevant pairs: their scores show which ranks they pushed down. Judged documents that are not in the pool have
no pair here.

Ties are broken as trec_eval breaks them: float32 score descending, then candidate id descending, by code
point.

Shapes: Q questions, N candidates, M relevant pairs, P tracked pairs: the relevant ones in the pool, and the
excluded ones; L languages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hbt_dist.evaluation.matrix_rows import Int64
from hbt_dist.data.benchmarks.benchmark import Benchmark

BLOCK_QUESTIONS = 512
BLOCK_CANDIDATES = 1024
#: Largest block on GPUs, in questions and in candidates: 103 GFLOP at width 768, 2 ms on an H200 (predicted),
#: against some 50 kernels that the host launches.
GPU_BLOCK = 8192
_MOST_RUNS = 1000


@dataclass(frozen=True)
class OwnedPairs:
    """Relevant pairs of one shard, (m,) each: number in the plan's order, and the cell of the grid."""

    number: Int64
    question_block: Int64
    row: Int64  # of the question in its block
    candidate_block: Int64
    column: Int64  # of the candidate in its block


@dataclass(frozen=True)
class ScoringPlan:
    """A pure function of the benchmark; pickles to actors without texts or embeddings.

    Positions count candidates in `candidate_order`; places count questions in `question_order`.
    """

    num_languages: int
    candidate_order: Int64 | None  # (N,) row at each position; None when rows already lie by language
    language_starts: Int64  # (L + 1,) first position of each language
    id_order: NDArray[np.uint32]  # (N,) by position: how many ids are smaller
    question_order: Int64  # (Q,) row at each place
    relevant_offsets: Int64  # (Q + 1,) by place
    relevant_position: Int64  # (P,) candidate position of each tracked pair, by place
    relevant_source: Int64  # (P,) index of the pair in the benchmark's flat order; M + i: i-th excluded pair
    num_judged: int  # M
    excluded: Int64  # (E, 2) question row and candidate position
    block_questions: int
    block_candidates: int

    @property
    def num_candidates(self) -> int:
        """N."""
        return len(self.id_order)

    @property
    def num_questions(self) -> int:
        """Q."""
        return len(self.question_order)

    @property
    def num_relevant(self) -> int:
        """P: pairs of a question and a relevant or excluded candidate."""
        return len(self.relevant_position)

    @property
    def most_excluded(self) -> int:
        """Candidates that a question's rankings leave out, at most."""
        return int(np.unique(self.excluded[:, 0], return_counts=True)[1].max(initial=0))

    def num_kept(self, top_k: int) -> int:
        """Return how many candidates a ranked list must keep so that `top_k` remain without excluded ones."""
        return min(top_k, self.num_candidates) + self.most_excluded if top_k else 0

    @property
    def num_question_blocks(self) -> int:
        """Blocks of questions that are scored at once."""
        return -(-self.num_questions // self.block_questions)

    @property
    def num_candidate_blocks(self) -> int:
        """Blocks of candidates that are scored at once."""
        return -(-self.num_candidates // self.block_candidates)

    def shard_blocks(self, num_shards: int) -> list[range]:
        """Candidate blocks of each shard: contiguous, as even as whole blocks allow, or empty."""
        edges = [i * self.num_candidate_blocks // num_shards for i in range(num_shards + 1)]
        return [range(a, b) for a, b in pairwise(edges)]

    def question_places(self, block: int) -> slice:
        """Places of the questions of a block."""
        start = block * self.block_questions
        return slice(start, min(start + self.block_questions, self.num_questions))

    def candidate_positions(self, block: int) -> slice:
        """Positions of the candidates of a block."""
        start = block * self.block_candidates
        return slice(start, min(start + self.block_candidates, self.num_candidates))

    def candidate_rows(self, block: int) -> slice | Int64:
        """Rows of the candidate matrix that make up a block."""
        positions = self.candidate_positions(block)
        return positions if self.candidate_order is None else self.candidate_order[positions]

    def language_of(self, positions: Int64) -> Int64:
        """Language of the candidates at some positions."""
        return np.searchsorted(self.language_starts, positions, side="right") - 1

    def relevant_range(self, block: int) -> slice:
        """Relevant pairs of a question block."""
        slots = self.question_places(block)
        return slice(int(self.relevant_offsets[slots.start]), int(self.relevant_offsets[slots.stop]))

    def pairs_of(self, blocks: range) -> tuple[slice, Int64]:
        """Relevant pairs of some question blocks, and the place of the question of each."""
        start = self.relevant_range(blocks[0]).start
        stop = self.relevant_range(blocks[-1]).stop
        questions = np.searchsorted(self.relevant_offsets, np.arange(start, stop), side="right") - 1
        return slice(start, stop), questions

    def owned_pairs(self, blocks: range, candidate_blocks: range) -> OwnedPairs:
        """Relevant pairs of some question blocks whose candidate is in a run of candidate blocks."""
        pairs, question = self.pairs_of(blocks)
        position = self.relevant_position[pairs]
        candidate_block = position // self.block_candidates
        owned = np.flatnonzero(
            (candidate_block >= candidate_blocks.start) & (candidate_block < candidate_blocks.stop)
        )
        question_block, row = np.divmod(question[owned], self.block_questions)
        column = position[owned] % self.block_candidates
        return OwnedPairs(owned + pairs.start, question_block, row, candidate_block[owned], column)

    def pieces(self, block: int) -> list[tuple[int, int, int]]:
        """(start, stop, language) of a block's rows, cut at languages."""
        positions = self.candidate_positions(block)
        edges = np.clip(self.language_starts, positions.start, positions.stop) - positions.start
        return [
            (start, stop, language)
            for language, (start, stop) in enumerate(pairwise(edges.tolist()))
            if start < stop
        ]


def block_sizes(benchmark: Benchmark, on_gpu: bool) -> tuple[int, int]:
    """Return the questions and candidates of a block: small ones fit a CPU's cache, large ones fill a GPU.

    Small benchmarks get smaller blocks on a GPU, in steps of 512.
    """
    if not on_gpu:
        return BLOCK_QUESTIONS, BLOCK_CANDIDATES
    questions, candidates = (
        min(GPU_BLOCK, max(1, -(-number // 512)) * 512)
        for number in (benchmark.num_questions, benchmark.num_candidates)
    )
    return questions, candidates


def plan_scoring(
    benchmark: Benchmark, block_questions: int = BLOCK_QUESTIONS, block_candidates: int = BLOCK_CANDIDATES
) -> ScoringPlan:
    """Lay out a benchmark. Costs one sort of the candidate ids."""
    languages = np.asarray(benchmark.candidate_language, np.int64)
    order = None if np.all(languages[1:] >= languages[:-1]) else np.argsort(languages, kind="stable")
    id_order = _string_order(benchmark.candidate_ids)
    position_of_row = np.arange(len(languages))
    if order is not None:
        id_order = id_order[order]
        position_of_row[order] = np.arange(len(languages))
    counts = np.bincount(languages, minlength=len(benchmark.languages))

    excluded = np.asarray(benchmark.excluded, np.int64)
    question, row, tracked = _tracked_pairs(benchmark)
    position = position_of_row[row]
    lengths = np.bincount(question, minlength=benchmark.num_questions)
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    first = np.full(benchmark.num_questions, benchmark.num_candidates, np.int64)
    first[lengths > 0] = np.minimum.reduceat(position, offsets[:-1][lengths > 0])
    question_order = np.argsort(first, kind="stable")
    new_offsets = np.concatenate(([0], np.cumsum(lengths[question_order]))).astype(np.int64)
    shift = np.repeat(offsets[:-1][question_order] - new_offsets[:-1], lengths[question_order])
    source = shift + np.arange(len(position))
    return ScoringPlan(
        num_languages=len(benchmark.languages),
        candidate_order=order,
        language_starts=np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        id_order=id_order,
        question_order=question_order,
        relevant_offsets=new_offsets,
        relevant_position=position[source],
        relevant_source=tracked[source],
        num_judged=len(benchmark.relevant),
        excluded=np.column_stack([excluded[:, 0], position_of_row[excluded[:, 1]]]),
        block_questions=block_questions,
        block_candidates=block_candidates,
    )


def _tracked_pairs(benchmark: Benchmark) -> tuple[Int64, Int64, Int64]:
    """Return question row, candidate row, and `ScoringPlan.relevant_source` of each pair, by question."""
    num_judged = len(benchmark.relevant)
    in_pool = np.flatnonzero(benchmark.relevant_in_pool)
    judged_question = np.repeat(np.arange(benchmark.num_questions), np.diff(benchmark.relevant_offsets))
    excluded = np.asarray(benchmark.excluded, np.int64)
    question = np.concatenate([judged_question[in_pool], excluded[:, 0]])
    row = np.concatenate([np.asarray(benchmark.relevant, np.int64)[in_pool], excluded[:, 1]])
    source = np.concatenate([in_pool, num_judged + np.arange(len(excluded))])
    order = np.argsort(question, kind="stable")
    return question[order], row[order], source[order]


def _string_order(ids: Sequence[str]) -> NDArray[np.uint32]:
    """Return how many ids come before each id, in code point order, which is that of UTF-8 bytes too.

    Ids in a few ascending runs (such as a run per language) are not loaded: one pass over them is enough.
    """
    starts: list[int] = []  # first row of each run
    firsts: list[str] = []
    lasts: list[str] = []
    for row, candidate_id in enumerate(ids):
        if not starts or candidate_id <= lasts[-1]:
            starts.append(row)
            firsts.append(candidate_id)
            lasts.append(candidate_id)
            if len(starts) > _MOST_RUNS:
                break
        lasts[-1] = candidate_id
    by_first = sorted(range(len(starts)), key=firsts.__getitem__)
    if len(starts) <= _MOST_RUNS and all(lasts[a] < firsts[b] for a, b in pairwise(by_first)):
        stops = [*starts[1:], len(ids)]
        rows = [np.arange(starts[run], stops[run]) for run in by_first]
        ascending = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    else:
        loaded = list(ids)
        ascending = np.array(sorted(range(len(ids)), key=loaded.__getitem__), dtype=np.int64)
    order = np.empty(len(ids), np.uint32)
    order[ascending] = np.arange(len(ids))
    return order
