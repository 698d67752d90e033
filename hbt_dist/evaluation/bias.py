"""Measure language bias: how far a candidate's language decides its rank in the multilingual pool.

    rank distance             worst minus best rank of a question's relevant candidates (arXiv 2305.09025,
                              2408.10536); floor R - 1. With it the median, the share of the pool
                              (worst - best) / (N - 1), and ln(worst / best), which outliers do not dominate
    Max@R, Complete@10        worst rank; all relevant candidates within the top ten (arXiv 2604.05684)
    language preference rate  share of questions whose best placed relevant candidate is in the question's
                              language; neutral is that language's share of the relevant candidates
    same-language share       share of the top k in the question's language, minus the language's share of
                              the pool
    pool gap                  mAP in the per-pair pool minus mAP in the pool of all languages with one target
    ranking consistency       MRC (arXiv 2509.06195): rank correlation (Spearman) between the full rankings
                              that a question gets when asked in two languages; MRC@k on the union of the two
                              top k lists

Questions with relevant candidates in fewer than two languages are left out, as are those with a relevant
document that is not in the pool. Ranking consistency compares rankings of the whole pool.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.evaluation.block_scores import exact_products, ranking_keys
from hbt_dist.evaluation.matrix_rows import Float64, Int64, Rows, read_rows
from hbt_dist.evaluation.metrics import UNRANKED
from hbt_dist.evaluation.pair_matrix import QuestionTable, cell_means, mean_or_nan
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.ranks import TopLists

if TYPE_CHECKING:
    from hbt_dist.data.benchmarks.benchmark import Benchmark


SHARE_DEPTHS = (10, 100)
CONSISTENCY_DEPTH = 100
RANKING_BYTES = 2**26  # full rankings held at once by `ranking_consistency`


def question_bias(benchmark: Benchmark, pooled: QuestionTable, ranks: Int64) -> dict[str, Float64]:
    """Return the bias measures of each question row, NaN where undefined: measure -> (Q,).

    Args:
        pooled: table of the multilingual setting.
        ranks: (M,) pooled ranks in the benchmark's flat order.
    """
    offsets = np.asarray(benchmark.relevant_offsets, np.int64)
    question = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    language = benchmark.relevant_language
    several = np.minimum.reduceat(language, offsets[:-1]) != np.maximum.reduceat(language, offsets[:-1])
    same_language = language == np.asarray(benchmark.question_language, np.int64)[question]
    num_same_language = np.add.reduceat(same_language.astype(np.int64), offsets[:-1])
    first = ranks == pooled.best_rank[question]
    same_language_first = np.add.reduceat((first & same_language).astype(np.float64), offsets[:-1])
    best, worst = pooled.best_rank.astype(np.float64), pooled.worst_rank.astype(np.float64)
    several &= pooled.worst_rank < UNRANKED
    has_same_language = several & (num_same_language > 0)
    return {
        "rank_distance": np.where(several, worst - best, np.nan),
        "log_rank_distance": np.where(several, np.log(worst / best), np.nan),
        "rank_distance_share": np.where(
            several, (worst - best) / max(1, len(benchmark.candidate_ids) - 1), np.nan
        ),
        "max_at_r": np.where(several, worst, np.nan),
        "complete@10": np.where(several, (worst <= 10).astype(np.float64), np.nan),
        "language_preference_rate": np.where(has_same_language, same_language_first, np.nan),
        "language_preference_neutral": np.where(
            has_same_language, num_same_language / np.diff(offsets), np.nan
        ),
    }


def same_language_share(benchmark: Benchmark, top: TopLists) -> dict[str, Float64]:
    """Return the share of a question's language in its top k minus that in the pool: (Q,) by measure."""
    languages = np.asarray(benchmark.candidate_language, np.int64)
    question_language = np.asarray(benchmark.question_language, np.int64)
    pool_share = np.bincount(languages, minlength=len(benchmark.languages)) / len(languages)
    result = {}
    for k in SHARE_DEPTHS:
        if k <= top.rows.shape[1]:
            rows = top.rows[:, :k]
            listed = rows >= 0
            same = (languages[rows] == question_language[:, None]) & listed
            result[f"same_language_share@{k}"] = (
                same.sum(axis=1) / listed.sum(axis=1) - pool_share[question_language]
            )
    return result


def summarise_bias(benchmark: Benchmark, values: dict[str, Float64]) -> dict[str, dict[str, object]]:
    """Average each measure over a language's questions, then over languages; distances also get a median."""
    question_language = np.asarray(benchmark.question_language, np.int64)
    result: dict[str, dict[str, object]] = {}
    for name, all_values in values.items():
        defined = ~np.isnan(all_values)
        if not defined.any():
            continue
        counts = np.bincount(question_language[defined], minlength=len(benchmark.languages))
        by_language = cell_means(all_values[defined], question_language[defined], counts)
        entry: dict[str, object] = {
            "macro": mean_or_nan(by_language),
            "micro": float(all_values[defined].mean()),
            "num_questions": int(defined.sum()),
            "by_language": dict(zip(benchmark.languages, by_language.tolist(), strict=True)),
        }
        if name in ("rank_distance", "max_at_r"):
            entry["median"] = float(np.median(all_values[defined]))
        result[name] = entry
    return result


def ranking_consistency(
    benchmark: Benchmark,
    plan: ScoringPlan,
    questions: Rows,
    candidates: Rows,
    *,
    num_ids: int | None,
    seed: int = 0,
) -> dict[str, object] | None:
    """Return MRC and MRC@100 over question ids asked in at least two languages.

    Costs a full sort of the pool for each of the ids' questions. Equal scores are ordered by id like
    everywhere, so each ranking is a permutation and the correlation an exact ratio of integers.

    Args:
        num_ids: ids to draw (without replacement, fixed seed), None for all.

    Returns:
        means over questions per measure, or None if no id is asked in two languages.
    """
    rows_of_id: dict[str, list[int]] = {}
    for row, question_id in enumerate(benchmark.question_ids):
        rows_of_id.setdefault(question_id, []).append(row)
    shared = [rows for rows in rows_of_id.values() if len(rows) > 1]
    if not shared or len(plan.id_order) < 2:
        return None
    chosen = np.arange(len(shared))
    if num_ids is not None and num_ids < len(shared):
        chosen = np.sort(np.random.default_rng(seed).choice(len(shared), num_ids, replace=False))
    question_language = np.asarray(benchmark.question_language, np.int64)
    sums = np.zeros((2, len(benchmark.languages)))
    counts = np.zeros(len(benchmark.languages), np.int64)
    longest = max(len(shared[index]) for index in chosen.tolist())
    together = max(1, RANKING_BYTES // (24 * plan.num_candidates * longest))
    for first in range(0, len(chosen), together):
        groups = [shared[index] for index in chosen[first : first + together].tolist()]
        keys = pool_keys(plan, questions, candidates, np.concatenate(groups))
        for rows in groups:
            keys_of_id, keys = keys[: len(rows)], keys[len(rows) :]
            for depth, rho in enumerate(_correlations(keys_of_id)):
                np.add.at(sums[depth], question_language[rows], (rho.sum(axis=1) - 1.0) / (len(rows) - 1.0))
            np.add.at(counts, question_language[rows], 1)
    means = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    return {
        "mrc": mean_or_nan(means[0]),
        f"mrc@{CONSISTENCY_DEPTH}": mean_or_nan(means[1]),
        "mrc_by_language": dict(zip(benchmark.languages, means[0].tolist(), strict=True)),
        "num_question_ids": len(chosen),
        "of_question_ids": len(shared),
        "seed": seed,
    }


def pool_keys(plan: ScoringPlan, questions: Rows, candidates: Rows, rows: Int64) -> NDArray[np.uint64]:
    """(len(rows), N) keys that order the pool (in the plan's layout) for each question."""
    block_QD = np.empty((len(rows), questions.shape[1]), np.float32)
    read_rows(questions, rows, block_QD)
    keys = np.empty((len(rows), plan.num_candidates), np.uint64)
    block_CD = np.empty((plan.block_candidates, questions.shape[1]), np.float32)
    with exact_products():
        for block in range(plan.num_candidate_blocks):
            positions = plan.candidate_positions(block)
            read_rows(candidates, plan.candidate_rows(block), block_CD)
            scores = (torch.from_numpy(block_QD) @ torch.from_numpy(block_CD).T).numpy()
            keys[:, positions] = ranking_keys(
                scores[:, : positions.stop - positions.start], plan.id_order[None, positions]
            )
    return keys


def _correlations(keys_RN: NDArray[np.uint64]) -> tuple[Float64, Float64]:
    """(R, R) Spearman between R rankings of one pool: at full depth, and on the union of each two top lists.

    Rankings are permutations, so rho = 1 - 6 sum d^2 / (n (n^2 - 1)), and sum d^2 follows from inner products
    of places, which float64 holds exactly for pools of up to 200,000.
    """
    num_rankings, size = keys_RN.shape
    order = np.argsort(keys_RN, axis=1)
    positions = np.empty(keys_RN.shape, np.float64)
    np.put_along_axis(positions, order, np.arange(size - 1.0, -1.0, -1.0)[None, :], axis=1)
    squares = size * (size - 1.0) * (2.0 * size - 1.0) / 6.0
    full = 1.0 - 12.0 * (squares - positions @ positions.T) / (size * (size**2 - 1.0))
    top = np.eye(num_rankings)
    lists = order[:, -CONSISTENCY_DEPTH:]
    for a, b in combinations(range(num_rankings), 2):
        union = np.union1d(lists[a], lists[b])
        top[a, b] = top[b, a] = _spearman(positions[a, union], positions[b, union])
    np.fill_diagonal(full, 1.0)
    return full, top


def _spearman(a: Float64, b: Float64) -> float:
    """Spearman's rho of values without ties."""
    n = len(a)
    difference = np.argsort(np.argsort(a)) - np.argsort(np.argsort(b))
    return 1.0 if n < 2 else 1.0 - 6.0 * float(difference @ difference) / (n * (n**2 - 1.0))
