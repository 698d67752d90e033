"""Fuse several rankings of a question by reciprocal rank, exactly at every depth and in every setting.

    score(c) = sum over runs of 1 / (k + rank of c in the run)          (Cormack, Clarke, Büttcher 2009)

A run ranks the pool by the inner product with one vector; a question has one run or more. Ranks are those of
the pool in which the fused ranking is read, so each setting is fused separately: the candidates of one
language (monolingual, cross-lingual), the pool of all languages (multilingual), and that pool without the
other languages' relevant candidates (one target). Nothing is cut off: every candidate has a rank in every
run.

Ties, in a run and in the fusion, are broken as everywhere: float32 score descending, then id descending. The
fused score is summed in integers (units of 2^-52), so the order of the runs has no effect and equal ranks tie
exactly, and then rounded to float32, so a TREC run of these scores has the same order.

Cost: two sorts of the pool for each run of each question, and a few passes over it per relevant language
and run. With two runs and XQuAD-R's pool (13,014 candidates, 11 languages) 10 ms on one CPU core, 2 minutes
for its 13,090 questions; 2.5 ms for each further run.

Shapes: N candidates, L languages, V runs of one question, R relevant candidates of it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.bias import pool_keys
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, check_rows, check_shapes
from hbt_dist.evaluation.metrics import UNRANKED
from hbt_dist.evaluation.plan import ScoringPlan, plan_scoring
from hbt_dist.evaluation.ranks import RelevantRanks, TopLists
from hbt_dist.evaluation.settings import EvaluationSettings

#: Runs scored at once: 2**27 bytes of ranking keys.
KEY_BYTES = 2**27
#: Scores are counted in 1 / UNIT; up to 2,000 runs of a question fit 63 bits.
UNIT = float(2**52)


@dataclass(frozen=True)
class FusedQuestion:
    """Fused ranks of one question's relevant candidates (R), and the head of its pooled ranking."""

    ranks: RelevantRanks
    top: Int64  # positions, best first
    top_scores: Float32


def fuse_rankings(
    benchmark: Benchmark,
    runs: Rows,
    question_of_run: Int64,
    candidates: Rows,
    *,
    k: int = 60,
    settings: EvaluationSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[RelevantRanks, TopLists | None]:
    """Rank all relevant candidates in the fusion of each question's runs.

    Args:
        runs: (V, D) vectors of all runs of all questions.
        question_of_run: (V,) question row of each run, ascending; every question has at least one.
        candidates: (N, D).
        k: constant of the fusion.
        progress: called with the number of questions done.

    Raises:
        UserError: a vector that cannot be ranked.
    """
    settings = settings or EvaluationSettings()
    plan = plan_scoring(benchmark)
    counts = np.bincount(question_of_run, minlength=benchmark.num_questions)
    if len(counts) != benchmark.num_questions or counts.min() < 1 or (np.diff(question_of_run) < 0).any():
        raise ValueError("every question needs a run, in the order of the questions")
    _check(benchmark, runs, question_of_run, candidates)
    starts = np.concatenate([[0], np.cumsum(counts)])
    fuser = _Fuser(plan, k, min(settings.top_k, plan.num_candidates))
    position = np.arange(plan.num_candidates, dtype=np.int64)
    if plan.candidate_order is not None:
        position[plan.candidate_order] = np.arange(plan.num_candidates)
    fused: list[FusedQuestion] = []
    at_once = max(1, KEY_BYTES // (8 * plan.num_candidates))
    threads = settings.num_threads or torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        first = 0
        while first < benchmark.num_questions:
            last = int(np.searchsorted(starts, starts[first] + at_once, side="right")) - 1
            last = max(first + 1, min(last, benchmark.num_questions))
            keys = pool_keys(plan, runs, candidates, np.arange(starts[first], starts[last]))

            def fuse(
                question: int, keys: NDArray[np.uint64] = keys, base: int = int(starts[first])
            ) -> FusedQuestion:
                keys_of_question = keys[starts[question] - base : starts[question + 1] - base]
                relevant = benchmark.relevant_of(question)
                excluded = plan.excluded[plan.excluded[:, 0] == question, 1]
                return fuser(keys_of_question, position[relevant[relevant < len(position)]], excluded)

            fused += pool.map(fuse, range(first, last))
            first = last
            if progress is not None:
                progress(first)
    return _together(plan, np.flatnonzero(benchmark.relevant_in_pool), fused)


def _check(benchmark: Benchmark, runs: Rows, question_of_run: Int64, candidates: Rows) -> None:
    """Check that all vectors can be ranked."""
    check_shapes(runs, candidates, len(question_of_run), benchmark.num_candidates, benchmark.name)
    names = [f"a run of {benchmark.question_ids[row]}" for row in question_of_run.tolist()]
    check_rows(np.asarray(runs[:], np.float32), names.__getitem__, "question")
    for first in range(0, benchmark.num_candidates, 65536):
        rows = slice(first, min(first + 65536, benchmark.num_candidates))
        check_rows(
            np.asarray(candidates[rows], np.float32),
            lambda row, first=first: benchmark.candidate_ids[first + row],  # type: ignore[misc]
            "candidate",
        )


class _Fuser:
    """Fuses the runs of one question; what all questions share is made once."""

    def __init__(self, plan: ScoringPlan, k: int, top_k: int) -> None:
        self._size, self._top_k = plan.num_candidates, top_k
        self._starts = plan.language_starts
        self._language = np.repeat(np.arange(plan.num_languages), np.diff(plan.language_starts)).astype(
            np.int16
        )
        self._id_order = plan.id_order.astype(np.int64)
        ranks = np.arange(plan.num_candidates + 1, dtype=np.float64)
        self._gain = np.rint(UNIT / np.maximum(k + ranks, 1.0)).astype(np.int64)  # by rank, from 1

    def __call__(self, keys_VN: NDArray[np.uint64], relevant: Int64, excluded: Int64) -> FusedQuestion:
        if len(excluded):  # the last ranks of a run do not change the ranks before them
            keys_VN = keys_VN.copy()
            keys_VN[:, excluded] = np.arange(len(excluded))
        order = np.argsort(keys_VN, axis=1)[:, ::-1]  # keys are distinct: any sort gives this order
        ranks_VN = np.empty(order.shape, np.int64)
        np.put_along_axis(ranks_VN, order, np.arange(1, self._size + 1)[None, :], axis=1)
        scores = self._scores(ranks_VN)
        scores[excluded] = -np.inf
        languages = self._language[relevant]
        pair, one_target = np.zeros(len(relevant), np.int64), np.zeros(len(relevant), np.int64)
        in_language = self._within_languages(order)
        for language in np.unique(languages).tolist():
            targets, removed = relevant[languages == language], relevant[languages != language]
            part = slice(int(self._starts[language]), int(self._starts[language + 1]))
            within = self._scores(in_language[:, part])
            within[excluded[(excluded >= part.start) & (excluded < part.stop)] - part.start] = -np.inf
            pair[languages == language] = self._ranks_of(within, targets - part.start, self._id_order[part])
            alone = self._scores(self._without(ranks_VN, order, removed))
            alone[removed] = alone[excluded] = -np.inf
            one_target[languages == language] = self._ranks_of(alone, targets, self._id_order)
        equal = (scores[None, :] == scores[relevant][:, None]).sum(axis=1) - 1
        top = self._head(scores)
        pooled = self._ranks_of(scores, relevant, self._id_order)
        ranks = RelevantRanks(pair, one_target, pooled, equal.astype(np.int64), scores[relevant])
        return FusedQuestion(ranks, top, scores[top])

    def _scores(self, ranks_VN: Int64) -> Float32:
        """(N,) fused scores."""
        return (self._gain[ranks_VN].sum(axis=0) / UNIT).astype(np.float32)

    def _within_languages(self, order: Int64) -> Int64:
        """(V, N) ranks among the candidates of the same language."""
        ranks = np.empty(order.shape, np.int64)
        for run in range(len(order)):
            grouped = order[run][np.argsort(self._language[order[run]], kind="stable")]
            ranks[run, grouped] = np.arange(self._size) - self._starts[self._language[grouped]] + 1
        return ranks

    def _without(self, ranks_VN: Int64, order: Int64, removed: Int64) -> Int64:
        """Ranks after taking some candidates out (their own ranks have no meaning)."""
        if not len(removed):
            return ranks_VN
        gone = np.zeros((len(ranks_VN), self._size + 1), np.int64)
        np.put_along_axis(gone, ranks_VN[:, removed], 1, axis=1)
        gone = np.cumsum(gone, axis=1)
        left = ranks_VN - np.take_along_axis(gone, ranks_VN, axis=1)
        left[:, removed] = 1
        return left

    @staticmethod
    def _ranks_of(scores: Float32, chosen: Int64, id_order: Int64) -> Int64:
        """Ranks of some candidates: one more than those with a higher score, or the same and a larger id."""
        score, order = scores[chosen][:, None], id_order[chosen][:, None]
        ahead = (scores[None, :] > score) | ((scores[None, :] == score) & (id_order[None, :] > order))
        return 1 + ahead.sum(axis=1).astype(np.int64)

    def _head(self, scores: Float32) -> Int64:
        """Positions of the best `top_k`."""
        if not self._top_k:
            return np.zeros(0, np.int64)
        least = np.partition(scores, self._size - self._top_k)[self._size - self._top_k]
        some = np.flatnonzero(scores >= least)
        return some[np.lexsort((-self._id_order[some], -scores[some]))][: self._top_k]


def _together(
    plan: ScoringPlan, in_pool: Int64, fused: list[FusedQuestion]
) -> tuple[RelevantRanks, TopLists | None]:
    def judged(name: str, fill: float) -> Any:
        parts = np.concatenate([getattr(question.ranks, name) for question in fused])
        values = np.full(plan.num_judged, fill, parts.dtype)
        values[in_pool] = parts
        return values

    ranks = RelevantRanks(
        pair=judged("pair", UNRANKED),
        one_target=judged("one_target", UNRANKED),
        pooled=judged("pooled", UNRANKED),
        tied=judged("tied", 0),
        scores=judged("scores", -np.inf),
    )
    if not len(fused[0].top):
        return ranks, None
    rows = np.stack([question.top for question in fused])
    scores = np.stack([question.top_scores for question in fused])
    if plan.candidate_order is not None:
        rows = plan.candidate_order[rows]
    return ranks, TopLists(np.where(scores == -np.inf, -1, rows), scores)
