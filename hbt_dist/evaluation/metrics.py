"""Compute retrieval metrics from the exact ranks of the relevant candidates.

A ranking is given by nothing but the ranks of its relevant candidates, so no list is needed:

    AP        = (1/R) * sum_i i / rank_i                     divisor R at full depth (trec_eval `map`)
    mAP@20    = sum_{rank_i <= 20} i / rank_i / min(R, 20)   XTREME-R's divisor; trec_eval's map_cut_20 has R
    MRR       = 1 / rank_1
    recall@k  = share of the R relevant candidates with rank <= k
    nDCG@10   = sum_{rank_i <= 10} grade_i / log2(rank_i + 1), over that of a perfect ranking
    accuracy  = 1 if the best candidate is relevant

A judged document that is not in the pool is one of the R and has the rank UNRANKED: it adds nothing.

with ranks ascending, i = 1..R; grades are 1 where a benchmark has none. Equal to pytrec_eval to 1e-9
(tests/evaluation/test_metrics.py). User-defined metrics are functions of the same ranks
(`user_metrics`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import load_user_function
from hbt_dist.evaluation.matrix_rows import Float64, Int64

Metric = Callable[[Int64, Int64], Float64]

#: Columns of per_question.parquet that are not metrics.
_TAKEN = (
    "setting", "question_id", "question_cluster", "question_language", "candidate_language", "num_relevant",
    "best_rank", "worst_rank", "value", "rank_distance", "log_rank_distance", "rank_distance_share",
    "max_at_r", "language_preference_rate", "language_preference_neutral",
)  # fmt: skip
#: Rank of a relevant document that is not in the pool.
UNRANKED = 2**62
#: A figure is near chance below this multiple of the mAP of a random order ...
NEAR_CHANCE = 3.0
#: ... and below this share of the way from a random order to 1, where few candidates make chance large.
_NEAR_SHARE = 0.25
METRICS = ("map", "map@20", "mrr", "recall@1", "recall@10", "recall@100", "ndcg@10", "accuracy")


def metrics_from_ranks(ranks: Int64, offsets: Int64, grades: Float64 | None = None) -> dict[str, Float64]:
    """Return every metric of METRICS for each of G rankings.

    Args:
        ranks: (M,) ranks of relevant candidates, ranking by ranking, in any order inside one.
        offsets: (G + 1,) where each ranking's relevant candidates begin; none may be empty.
        grades: (M,) gain of each in nDCG, above 0, aligned with `ranks`; by default all 1.

    Returns:
        (G,) float64 by metric.
    """
    starts, lengths = offsets[:-1], np.diff(offsets)
    if not len(lengths):
        return {name: np.zeros(0) for name in METRICS}
    ranking = np.repeat(np.arange(len(lengths)), lengths)
    gains = np.ones(len(ranks)) if grades is None else grades
    best = gains[np.lexsort((-gains, ranking))]
    order = np.lexsort((ranks, ranking))
    gains = gains[order]
    ranks = np.where(ranks == UNRANKED, np.inf, ranks.astype(np.float64))[order]
    position = np.arange(len(ranks)) - np.repeat(starts, lengths) + 1.0

    def total(values: Float64) -> Float64:
        return np.asarray(np.add.reduceat(values, starts))

    num_relevant = lengths.astype(np.float64)
    precision = position / ranks
    gain_at_10, best_gain_at_10 = (
        total(np.where(at <= 10, gain / np.log2(at + 1.0), 0.0))
        for at, gain in ((ranks, gains), (position, best))
    )
    values = {
        "map": total(precision) / num_relevant,
        "map@20": total(np.where(ranks <= 20, precision, 0.0)) / np.minimum(num_relevant, 20.0),
        "mrr": 1.0 / ranks[starts],
        "ndcg@10": gain_at_10 / best_gain_at_10,
        "accuracy": (ranks[starts] == 1.0).astype(np.float64),
    }
    for k in (1, 10, 100):
        values[f"recall@{k}"] = total((ranks <= k).astype(np.float64)) / num_relevant
    return {name: values[name] for name in METRICS}


def user_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Load user-defined metrics; each is reported under its function's name.

    Args:
        names: ``module:function`` each. A function gets `ranks` (M,) and `offsets` (G + 1,) as
            `metrics_from_ranks`, the ranks of each ranking ascending, and returns (G,) numbers.

    Raises:
        UserError: a metric cannot be imported, or its name is taken.
    """
    metrics: dict[str, Metric] = {}
    for name in names:
        short = name.rpartition(":")[2]
        if short in metrics or short in METRICS or short in _TAKEN:
            raise UserError("metrics", f"the name {short} is taken", f"rename the function of {name}")
        metrics[short] = load_user_function(name, "metrics")
    return metrics


def user_values(metrics: Mapping[str, Metric], ranks: Int64, offsets: Int64) -> dict[str, Float64]:
    """Return the values of user-defined metrics; arguments as `metrics_from_ranks`.

    Raises:
        UserError: a function does not return one finite number per ranking.
    """
    if not metrics:
        return {}
    ranking = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    ascending = ranks[np.lexsort((ranks, ranking))]
    result = {}
    for name, metric in metrics.items():
        values = np.asarray(metric(ascending.copy(), offsets.copy()), np.float64)
        if values.shape != (len(offsets) - 1,) or not np.isfinite(values).all():
            raise UserError(
                f"metric {name}",
                f"expected finite numbers of shape ({len(offsets) - 1},), got shape {values.shape}"
                + ("" if np.isfinite(values).all() else " with NaN or infinity"),
                "return one finite number per ranking",
            )
        result[name] = values
    return result


def chance_average_precision(num_relevant: Int64, pool: Int64) -> Float64:
    """Return the expected average precision of a random order of the pool.

    The candidate at rank i is relevant with probability R / N, and then (i - 1)(R - 1) / (N - 1) of those
    before it are expected to be; the sum over the ranks has a closed form in the harmonic number H_N
    (Bestgen 2015, arXiv 1511.03137), H_N / N with one relevant candidate.

    Args:
        num_relevant: (n,) R.
        pool: (n,) N, at least R.
    """
    from scipy.special import digamma

    size = np.asarray(pool, np.float64)
    harmonic = digamma(size + 1) + np.euler_gamma
    more_relevant = np.divide(num_relevant - 1, size - 1, out=np.zeros(len(size)), where=size > 1)
    return np.asarray((harmonic + more_relevant * (size - harmonic)) / size)


def ceilings(num_relevant: Int64, num_in_pool: Int64) -> dict[str, Float64]:
    """Return the best values that any ranking can have where these are below 1 for some: (G,) by metric.

    Args:
        num_relevant: (G,) R.
        num_in_pool: (G,) relevant candidates that can be found, at most R.
    """
    best = {f"recall@{k}": np.minimum(num_in_pool, k) / num_relevant for k in (1, 10, 100)}
    best["map@20"] = np.minimum(num_in_pool, 20) / np.minimum(num_relevant, 20)
    return {"map": num_in_pool / num_relevant, **best}


def near_chance(value: float | None, chance: float | None) -> bool:
    """Check whether an mAP is little better than that of a random order; false if either is unknown."""
    if value is None or chance is None:
        return False
    return value < min(NEAR_CHANCE * chance, chance + _NEAR_SHARE * (1 - chance))
