"""Rank relevant candidates exactly, at any depth, by counting, shard by shard.

    rank = 1 + number of candidates that score higher, or equal with a larger id

Nothing is sorted and nothing is cut at a top k. Each shard counts over its own candidates against the score
that the owner of the relevant candidate took from its own matrix product; counts are integers and add up, so
the ranks are the same for every number of shards, processes and threads (plan.py says why the scores are).

Candidates in the language of the relevant candidate are counted apart. One pass therefore gives the ranks in
per-language pools, in the pool of all languages, and with the other languages' relevant candidates left out.
Two counts per relevant pair are kept, however many languages there are.

A candidate that a question's rankings leave out is counted like every other and then taken off the ranks
that it pushed down; its score is known from the same products. A judged document that is not in the pool has
the rank UNRANKED.

Cost on one CPU core at width 384: about 0.01 s per million scores for the product, and 0.0006 s per million
scores and relevant candidate (shard.py).

Shapes: Q questions, N candidates, M relevant pairs, L languages, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.block_scores import decode_keys
from hbt_dist.evaluation.matrix_rows import Float32, Int64
from hbt_dist.evaluation.metrics import UNRANKED
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.shard import Counts


class ScoringShard(Protocol):
    """One part of the pool, here or in another process. Both calls are pure functions of their arguments."""

    def relevant_scores(self, blocks: range) -> tuple[Int64, Float32]:
        """Return the pairs whose candidate is in these blocks, and their scores."""

    def count(self, blocks: range, scores: Float32) -> Counts:
        """Count the candidates of these blocks that score higher than each relevant candidate, or as high."""


@dataclass(frozen=True)
class RelevantRanks:
    """Ranks of every relevant pair, in the benchmark's flat order (M pairs); UNRANKED outside the pool."""

    pair: Int64  # in the pool of the candidate's language
    one_target: Int64  # in the pool of all languages without the relevant candidates of other languages
    pooled: Int64  # in the pool of all languages
    tied: Int64  # other candidates of all languages with exactly the same score
    scores: Float32  # minus infinity outside the pool


@dataclass(frozen=True)
class TopLists:
    """The best k candidates of every question in the pool of all languages, best first."""

    rows: Int64  # (Q, k) candidate rows; -1 where fewer are left
    scores: Float32  # (Q, k)


def rank_relevant(
    plan: ScoringPlan,
    shards: Sequence[ScoringShard],
    *,
    blocks_at_once: int = 0,
    map_shards: Callable[[Callable[[ScoringShard], Any], Sequence[ScoringShard]], list[Any]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[RelevantRanks, TopLists | None]:
    """Collect the counts of all shards and turn them into ranks.

    Args:
        plan: the grid that the shards share.
        shards: together they cover the pool.
        blocks_at_once: question blocks per round; 0 does all in one round, which reads the pool twice.
        map_shards: how to call a function on every shard (a Ray driver calls them all at once).
        progress: called with the number of questions done after each round.

    Raises:
        UserError: a device gives other bits when it repeats a product, or a vector cannot be ranked.
    """
    over = map_shards or (lambda call, parts: [call(part) for part in parts])
    scores = np.full(plan.num_relevant, np.nan, np.float32)
    higher, higher_in_language, tied = (np.zeros(plan.num_relevant, np.int64) for _ in range(3))
    tops: list[NDArray[np.uint64]] = []
    step = blocks_at_once or plan.num_question_blocks
    for first in range(0, plan.num_question_blocks, step):
        blocks = range(first, min(first + step, plan.num_question_blocks))
        for pairs, values in over(lambda shard, blocks=blocks: shard.relevant_scores(blocks), shards):  # type: ignore[misc]
            scores[pairs] = values
        some = slice(plan.relevant_range(blocks[0]).start, plan.relevant_range(blocks[-1]).stop)
        parts = over(lambda shard, blocks=blocks, known=scores[some]: shard.count(blocks, known), shards)  # type: ignore[misc]
        total = parts[0]
        for part in parts[1:]:
            total = total.add(part)
        higher[some], higher_in_language[some], tied[some] = (
            total.higher,
            total.higher_in_language,
            total.tied,
        )
        if (total.tied < 0).any():
            raise UserError(
                "evaluation.scoring.device",
                "expected a product to repeat bit by bit, got a second score for "
                f"{int((total.tied < 0).sum())} relevant candidates, whose ranks would be wrong",
                "set it to cpu",
            )
        if total.top is not None:
            tops.append(total.top)
        if progress is not None:
            progress(plan.question_places(blocks[-1]).stop)
    foreign, excluded, excluded_in_language, excluded_tied = _tracked_above(plan, scores)
    pair, pooled = 1 + higher_in_language - excluded_in_language, 1 + higher - excluded

    def judged(values: Any, fill: float) -> Any:
        """Return values of tracked pairs for all judged pairs, in the benchmark's order."""
        result = np.full(plan.num_judged + len(plan.excluded), fill, values.dtype)
        result[plan.relevant_source] = values
        return result[: plan.num_judged]

    ranks = RelevantRanks(
        pair=judged(pair, UNRANKED),
        one_target=judged(pooled - foreign, UNRANKED),
        pooled=judged(pooled, UNRANKED),
        tied=judged(tied - excluded_tied, 0),
        scores=judged(scores, -np.inf),
    )
    if not tops:
        return ranks, None
    keys = np.empty((plan.num_questions, tops[0].shape[1]), np.uint64)
    keys[plan.question_order] = np.concatenate(tops)
    return ranks, lists_of_keys(plan, keys)


def _tracked_above(plan: ScoringPlan, scores: Float32) -> Int64:
    """Count the tracked candidates of a pair's question that rank above the pair's candidate.

    Returns:
        (4, P): relevant ones of other languages; excluded ones; excluded ones in the language of the pair's
        candidate; excluded ones with an equal score, above or not.
    """
    counts, language = np.zeros((4, len(scores)), np.int64), plan.language_of(plan.relevant_position)
    order = plan.id_order[plan.relevant_position].astype(np.int64)
    is_excluded = plan.relevant_source >= plan.num_judged
    lengths = np.diff(plan.relevant_offsets)
    for length in np.unique(lengths[lengths > 0]).tolist():
        step = max(1, 2_000_000 // length**2)
        groups = plan.relevant_offsets[:-1][lengths == length]
        for first in range(0, len(groups), step):
            index = groups[first : first + step, None] + np.arange(length)
            s, o, v, x = scores[index], order[index], language[index], is_excluded[index][:, None, :]
            equal = s[:, None, :] == s[:, :, None]
            ahead = (s[:, None, :] > s[:, :, None]) | (equal & (o[:, None, :] > o[:, :, None]))
            same_language = v[:, None, :] == v[:, :, None]
            for count, counted in enumerate(
                (ahead & ~x & ~same_language, ahead & x, ahead & x & same_language, equal & x)
            ):
                counts[count, index] = counted.sum(axis=2)
    return counts


def lists_of_keys(plan: ScoringPlan, keys: NDArray[np.uint64]) -> TopLists:
    """Ranked lists from the best `plan.num_kept(k)` keys of each question, in the benchmark's order.

    Key 0 stands for nothing. Excluded candidates are dropped.
    """
    keys = np.sort(keys, axis=1)[:, ::-1]
    scores, id_order = decode_keys(keys)
    position_of_id = np.empty(plan.num_candidates, np.int64)
    position_of_id[plan.id_order] = np.arange(plan.num_candidates)
    rows = position_of_id[id_order]
    missing = keys == 0
    question, position = plan.excluded.T
    np.logical_or.at(missing, question, rows[question] == position[:, None])
    if plan.candidate_order is not None:
        rows = plan.candidate_order[rows]
    rows, scores = np.where(missing, -1, rows), np.where(missing, np.float32(-np.inf), scores)
    if plan.most_excluded:
        listed = np.argsort(missing, axis=1, kind="stable")[:, : keys.shape[1] - plan.most_excluded]
        rows, scores = np.take_along_axis(rows, listed, axis=1), np.take_along_axis(scores, listed, axis=1)
    return TopLists(rows, scores)
