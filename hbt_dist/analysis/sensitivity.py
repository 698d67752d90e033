"""Which parameters matter, and how the objectives run along one of them.

    importance(results)                    # importance of each parameter for each objective, with intervals
    curve(results, "batches.alpha")        # the alpha curve of every objective, with the spread of the seeds

Importance is the share of an objective's variance over points that one parameter explains alone: the
first-order index of Sobol (Mathematical Modeling and Computational Experiment 1, 1993), here of a quadratic
fit in a number and of the means of a choice, adjusted for the degrees of freedom. A quadratic sees what a
correlation does not: an objective that is best in the middle. Interactions of parameters show as variance
that none explains. On a dozen points this is a rough measure, so a bootstrap interval over points and
the probability that as much comes about by chance (permutation) stand beside it. Takes well under a second.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hbt_dist.analysis.search_results import SearchResults
from hbt_dist.common.errors import UserError

Float64 = NDArray[np.float64]

#: The fewest points from which an importance is computed; below, the rows hold NaN.
MIN_POINTS = 4
COLUMNS = ["objective", "parameter", "importance", "low", "high", "p", "num_points", "num_values"]


def importance(
    results: SearchResults, *, resamples: int = 999, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Importance of every parameter that varies, for every objective, over `results.points`.

    Shares of a mixture are parameters of their own, although they sum to one.

    Args:
        resamples: bootstrap samples, and permutations.
        confidence: of the interval.
        seed: of the resampling.

    Returns:
        columns objective, parameter, importance (0 to 1; NaN with fewer than `MIN_POINTS` points, or too few
        for the parameter's number of choices), low and high (percentile interval), p (probability of at
        least this importance if the objective had nothing to do with the parameter), num_points, num_values;
        the most important parameter of each objective first.
    """
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for objective in results.objectives:
        frame = results.points.dropna(subset=objective)
        values = frame[objective].to_numpy(np.float64)
        part = []
        for name in results.parameters:
            num_values = int(frame[name].nunique(dropna=False))
            if num_values > 1:
                part.append(
                    {
                        "objective": objective,
                        "parameter": name,
                        **_importance(
                            _design(frame[name], name in results.log_parameters),
                            values,
                            rng,
                            resamples,
                            confidence,
                        ),
                        "num_points": len(frame),
                        "num_values": num_values,
                    }
                )
        rows += sorted(part, key=lambda row: -np.nan_to_num(row["importance"], nan=-1.0))
    return pd.DataFrame(rows, columns=COLUMNS)


def curve(results: SearchResults, parameter: str) -> pd.DataFrame:
    """Every objective along the values of a parameter, over all points and seeds that have the value.

    Each (point, seed) counts once, at its point's step in `results.points`. Where other parameters vary too
    they add to the spread; `seed_std` is the part of the seeds alone: the standard deviation within points,
    pooled over the points of the value.

    Args:
        parameter: one of `results.parameters`.

    Returns:
        one row per objective and value, values ascending: objective, value, mean, std (sample standard
        deviation), min, max, count (runs), num_points, seed_std (NaN without a point of two seeds).

    Raises:
        UserError: the search has no such parameter.
    """
    if parameter not in results.parameters:
        close = difflib.get_close_matches(parameter, results.parameters, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"parameters: {', '.join(results.parameters)}"
        raise UserError(f"parameter {parameter!r}", "is not varied in this search", hint)
    chosen = results.points[["point", "step", parameter]].rename(columns={parameter: "value"})
    runs = results.history.merge(chosen, on=["point", "step"]).dropna(subset="value")
    rows = []
    for objective in results.objectives:
        for value, group in runs.dropna(subset=objective).groupby("value", sort=True):
            values = group[objective]
            within = group.groupby("point")[objective].agg(["var", "count"])
            within = within[within["count"] > 1]
            freedom = float((within["count"] - 1).sum())
            pooled = float((within["var"] * (within["count"] - 1)).sum())
            rows.append(
                {
                    "objective": objective,
                    "value": value,
                    "mean": float(values.mean()),
                    "std": float(values.std(ddof=1)) if len(values) > 1 else math.nan,
                    "min": float(values.min()),
                    "max": float(values.max()),
                    "count": len(values),
                    "num_points": int(group["point"].nunique()),
                    "seed_std": math.sqrt(pooled / freedom) if freedom else math.nan,
                }
            )
    names = ["objective", "value", "mean", "std", "min", "max", "count", "num_points", "seed_std"]
    return pd.DataFrame(rows, columns=names)


def _importance(
    design: Float64, values: Float64, rng: np.random.Generator, resamples: int, confidence: float
) -> dict[str, float]:
    n = len(values)
    if n < max(MIN_POINTS, design.shape[1] + 3) or np.ptp(values) == 0.0:
        return dict.fromkeys(("importance", "low", "high", "p"), math.nan)
    seen = _explained(design, values)
    basis = np.linalg.qr(design - design.mean(axis=0))[0]
    shuffled = rng.permuted(np.tile(values - values.mean(), (resamples, 1)), axis=1)
    chance = ((shuffled @ basis) ** 2).sum(axis=1)
    mine = float((((values - values.mean()) @ basis) ** 2).sum())
    samples = (rng.integers(0, n, n) for _ in range(resamples))
    boot = [_explained(design[rows], values[rows]) for rows in samples if np.ptp(values[rows]) > 0.0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(boot, [tail, 1 - tail])
    return {
        "importance": seen,
        "low": float(low),
        "high": float(high),
        "p": float((np.sum(chance >= mine * (1 - 1e-12)) + 1) / (resamples + 1)),
    }


def _design(column: pd.Series[Any], logarithm: bool) -> Float64:
    """(n, k) columns of the fit: a number and its square, or an indicator of each choice but the first.

    A parameter that some points lack: one indicator more for a number, one choice more for a choice.
    """
    if pd.api.types.is_float_dtype(column.dtype):
        x = column.to_numpy(np.float64)
        there = ~np.isnan(x)
        known = np.log(x[there]) if logarithm else x[there]
        x = np.zeros(len(x))
        x[there] = (known - known.mean()) / (np.std(known) or 1.0)
        columns = [x, x**2][: len(np.unique(known)) - 1]
        if not there.all():
            columns.append(there.astype(np.float64))
        return np.column_stack(columns)
    texts = np.array(["(none)" if pd.isna(value) else str(value) for value in column])
    return np.asarray(texts[:, None] == np.unique(texts)[None, 1:], np.float64)


def _explained(design: Float64, values: Float64) -> float:
    """Adjusted R squared of least squares with a constant, at least 0."""
    n = len(values)
    y = values - values.mean()
    centred = design - design.mean(axis=0)
    fit, _, rank, _ = np.linalg.lstsq(centred, y, rcond=1e-10)
    if rank >= n - 1:
        return 0.0
    left = float(((y - centred @ fit) ** 2).sum() / (y**2).sum())
    return max(0.0, 1.0 - left * (n - 1) / (n - 1 - int(rank)))
