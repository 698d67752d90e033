"""Score one part of the candidate pool on a CPU: its relevant pairs, and how many candidates rank above.

A shard holds all questions and reads its candidates block by block, on the grid that plan.py lays. It can
keep a few question blocks' scores between the two calls (`cache_bytes`) and then multiplies once; otherwise
the blocks that hold relevant pairs are multiplied twice (with one relevant candidate per question and 5
million candidates a few per cent of all). Memory: the questions, two blocks per thread, the cache, the counts
(relevant pairs x languages). On GPUs a `DeviceShard` does the same (device_shard.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.evaluation.block_scores import (
    Columns,
    Targets,
    best_keys,
    count_better,
    exact_products,
    merge_top,
)
from hbt_dist.evaluation.candidate_blocks import CandidateBlocks
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, check_rows, read_rows
from hbt_dist.evaluation.plan import ScoringPlan

CACHE_BYTES = 192 * 2**20


@dataclass
class Counts:
    """Counts of a shard for the relevant pairs of some question blocks; the driver adds them."""

    higher: Int64  # (m,) candidates ranked above the pair's candidate
    higher_in_language: Int64  # (m,) those of them in the language of the pair's candidate
    tied: Int64  # (m,) other candidates with exactly its score
    top: NDArray[np.uint64] | None  # (questions, k) ranking keys, unordered; 0 where the pool is smaller

    def add(self, more: Counts) -> Counts:
        """Add the counts of two sets of candidates and keep the best of both heads."""
        top = self.top
        if top is not None and more.top is not None:
            top = best_keys([top, more.top], top.shape[1])
        higher_in_language = self.higher_in_language + more.higher_in_language
        return Counts(self.higher + more.higher, higher_in_language, self.tied + more.tied, top)


class Shard:
    """Scores of all questions against a run of candidate blocks."""

    def __init__(
        self,
        plan: ScoringPlan,
        candidate_blocks: range,
        questions: Float32,
        candidates: Rows,
        *,
        candidate_ids: Sequence[str] | None = None,
        top_k: int = 0,
        num_threads: int = 1,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """
        Args:
            plan: the grid that all shards share.
            candidate_blocks: blocks of this shard.
            questions: (question blocks * block_questions, D) from `arrange_questions`.
            candidates: the whole (N, D) matrix; only this shard's rows are read.
            candidate_ids: of the whole benchmark, for error messages.
            top_k: length of the ranked lists to keep, 0 for none.
            num_threads: blocks worked on at a time.
            cache_bytes: scores to keep between `relevant_scores` and `count`.
        """
        self.plan, self.blocks = plan, candidate_blocks
        self.top_k, self.num_threads = top_k, num_threads
        self._questions = torch.from_numpy(questions)
        self._candidates = CandidateBlocks(plan, candidates, candidate_ids)
        self._cache: dict[tuple[int, int], Any] = {}
        row_bytes = 4 * plan.block_questions * plan.block_candidates * max(1, len(candidate_blocks))
        self.blocks_at_once = cache_bytes // row_bytes  # question blocks whose scores fit the cache

    def relevant_scores(self, blocks: range) -> tuple[Int64, Float32]:
        """Scores of the relevant pairs whose candidate this shard owns.

        Returns:
            indices of those pairs (in the plan's order) and their scores, each from the very product with
            which `count` compares it.

        Raises:
            UserError: a candidate vector that cannot be ranked.
        """
        plan, keep = self.plan, len(blocks) <= self.blocks_at_once
        pairs = plan.owned_pairs(blocks, self.blocks)
        scores = np.empty(len(pairs.number), np.float32)
        self._cache.clear()

        def visit(candidate_block: int, product: Callable[[int], Any]) -> None:
            pairs_in_block = np.flatnonzero(pairs.candidate_block == candidate_block)
            blocks_of_pairs = pairs.question_block[pairs_in_block]
            for block in blocks if keep else np.unique(blocks_of_pairs):
                result = product(int(block))
                if keep:
                    self._cache[int(block), candidate_block] = result
                chosen = pairs_in_block[blocks_of_pairs == block]
                scores[chosen] = result[pairs.column[chosen], pairs.row[chosen]]

        wanted_blocks = self.blocks if keep else np.unique(pairs.candidate_block).tolist()
        self._visit(wanted_blocks, visit, reuse_buffer=not keep)
        return pairs.number, scores

    def count(self, blocks: range, scores: Float32) -> Counts:
        """Count this shard's candidates above each relevant pair of the question `blocks`.

        Args:
            blocks: question blocks.
            scores: of all relevant pairs of those blocks, from their owners.
        """
        plan = self.plan
        start = plan.relevant_range(blocks[0]).start
        first_place = plan.question_places(blocks[0]).start
        num_places = plan.question_places(blocks[-1]).stop - first_place
        totals = Counts(
            higher=np.zeros(len(scores), np.int64),
            higher_in_language=np.zeros(len(scores), np.int64),
            tied=np.zeros(len(scores), np.int64),
            top=np.zeros((num_places, self.top_k), np.uint64) if self.top_k else None,
        )
        pair_language = plan.language_of(plan.relevant_position[start : start + len(scores)])
        lock = threading.Lock()

        def visit(candidate_block: int, product: Callable[[int], Any]) -> None:
            for block in blocks:
                kept = self._cache.pop((block, candidate_block), None)
                result = product(block) if kept is None else kept
                pairs = plan.relevant_range(block)
                local = slice(pairs.start - start, pairs.stop - start)
                higher, tied, languages, valid = self._count_block(
                    block, candidate_block, result, scores[local]
                )
                with lock:
                    totals.higher[local] += higher.sum(axis=0)
                    for i, language in enumerate(languages):
                        totals.higher_in_language[local] += higher[i] * (pair_language[local] == language)
                    totals.tied[local] += tied
                    if totals.top is not None:
                        questions = plan.question_places(block)
                        kept = totals.top[questions.start - first_place : questions.stop - first_place]
                        id_order = plan.id_order[plan.candidate_positions(candidate_block)]
                        kept[:] = merge_top(kept, valid, id_order)

        self._visit(self.blocks, visit, reuse_buffer=True)
        return totals

    def _count_block(
        self, block: int, candidate_block: int, scores_CB: Any, scores: Float32
    ) -> tuple[NDArray[np.int32], NDArray[np.int32], list[int], Any]:
        plan = self.plan
        questions, positions = plan.question_places(block), plan.candidate_positions(candidate_block)
        valid = scores_CB[: positions.stop - positions.start, : questions.stop - questions.start]
        offsets = plan.relevant_offsets[questions.start : questions.stop + 1]
        num_relevant = np.diff(offsets)
        slots = max(1, int(num_relevant.max(initial=0)))
        slot = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], num_relevant)
        column = np.repeat(np.arange(len(num_relevant)), num_relevant)
        pair_positions = plan.relevant_position[offsets[0] : offsets[-1]]

        def spread(values: Any, fill: Any, dtype: Any) -> Any:
            table = np.full((slots, len(num_relevant)), fill, dtype)
            table[slot, column] = values
            return table

        in_block = (pair_positions >= positions.start) & (pair_positions < positions.stop)
        targets = Targets(
            scores=spread(scores, np.inf, np.float32),
            num_relevant=num_relevant,
            id_order=spread(plan.id_order[pair_positions], 0, np.int64),
            in_block=spread(in_block, False, np.bool_),
        )
        columns = Columns(plan.id_order[positions], plan.pieces(candidate_block))
        higher, tied = count_better(valid, targets, columns)
        return higher[:, slot, column], tied[slot, column], columns.languages, valid

    def _visit(
        self,
        candidate_blocks: Sequence[int],
        visit: Callable[[int, Callable[[int], Any]], None],
        reuse_buffer: bool,
    ) -> None:
        """Call `visit(block, product)` for each candidate block, `num_threads` at a time."""
        plan, width = self.plan, self._questions.shape[1]
        local = threading.local()

        def load(candidate_block: int) -> torch.Tensor:
            if not hasattr(local, "rows"):
                local.rows = torch.empty((plan.block_candidates, width))
                local.out = self._new_scores()
            self._candidates.read(candidate_block, local.rows.numpy())
            return local.rows

        def work(candidate_block: int) -> None:
            block_CD: list[torch.Tensor] = []

            def product(question_block: int) -> Any:
                if not block_CD:
                    block_CD.append(load(candidate_block))
                start = question_block * plan.block_questions
                out = local.out if reuse_buffer else self._new_scores()
                questions = self._questions[start : start + plan.block_questions]
                return torch.mm(block_CD[0], questions.T, out=out).numpy()

            visit(candidate_block, product)

        with exact_products(), ThreadPoolExecutor(self.num_threads) as pool:
            list(pool.map(work, candidate_blocks))  # raises what a block raised

    def _new_scores(self) -> torch.Tensor:
        return torch.empty((self.plan.block_candidates, self.plan.block_questions))


def arrange_questions(plan: ScoringPlan, questions: Rows, question_names: Sequence[str]) -> Float32:
    """Return question vectors in the plan's order as float32, padded to whole blocks with zeros.

    Raises:
        UserError: names a vector that cannot be ranked.
    """
    arranged = np.zeros((plan.num_question_blocks * plan.block_questions, questions.shape[1]), np.float32)
    read_rows(questions, plan.question_order, arranged)
    check_rows(
        arranged[: plan.num_questions],
        lambda position: question_names[plan.question_order[position]],
        "question",
    )
    return arranged
