"""Measure which parameters matter, and how the objectives change along a parameter.

    importance(results)                    # importance of each parameter for each objective, with intervals
    curve(results, "batches.alpha")        # the alpha curve of every objective, with the spread of the seeds

Importance is the share of an objective's variance over points that one parameter explains alone: the
first-order index of Sobol (Mathematical Modeling and Computational Experiment 1, 1993), here of a quadratic
fit in a number and of the means of a choice, adjusted for the degrees of freedom. Unlike a correlation, a
quadratic detects an objective that is best in the middle. Interactions of parameters appear as variance that
no parameter explains. On a dozen points this is a rough measure, so each value has a bootstrap interval over
points and the probability of reaching it by chance (permutation). Takes well under a second.
"""

from __future__ import annotations

import difflib
import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hbt_dist.analysis.results import SearchResults
from hbt_dist.common.errors import UserError

Float64 = NDArray[np.float64]

#: With fewer points the importance is NaN.
MIN_POINTS = 4
COLUMNS = ["objective", "parameter", "importance", "low", "high", "p", "num_points", "num_values"]


def importance(
    results: SearchResults, *, resamples: int = 999, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Compute the importance of every parameter that varies, for every objective, over `results.points`.

    Shares of a mixture are separate parameters, although they sum to one.

    Args:
        resamples: bootstrap samples, and permutations.
        confidence: of the interval.
        seed: seed of the resampling.

    Returns:
        columns objective, parameter, importance (0 to 1; NaN with fewer than `MIN_POINTS` points, or too few
        for the parameter's number of choices), low and high (percentile interval), p (probability of at
        least this importance if the objective does not depend on the parameter), num_points, num_values;
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
                design = _design(frame[name], name in results.log_parameters)
                measures = _importance(design, values, rng, resamples, confidence)
                sizes = {"num_points": len(frame), "num_values": num_values}
                part.append({"objective": objective, "parameter": name, **measures, **sizes})
        rows += sorted(part, key=lambda row: -np.nan_to_num(row["importance"], nan=-1.0))
    return pd.DataFrame(rows, columns=COLUMNS)


def curve(results: SearchResults, parameter: str) -> pd.DataFrame:
    """Compute every objective along the values of a parameter, over all points and seeds with the value.

    Each (point, seed) counts once, at its point's step in `results.points`. Further parameters that vary add
    to the spread; `seed_std` is the part of the seeds alone: the standard deviation within points, pooled
    over the points of the value.

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
        raise UserError(f"parameter {parameter!r}", "does not vary in this search", hint)
    chosen = results.points[["point", "step", parameter]].rename(columns={parameter: "value"})
    runs = results.history.merge(chosen, on=["point", "step"]).dropna(subset="value")
    rows = []
    for objective in results.objectives:
        for value, group in runs.dropna(subset=objective).groupby("value", sort=True):
            within = group.groupby("point")[objective].agg(["var", "count"])
            within = within[within["count"] > 1]
            freedom = within["count"] - 1
            variance = (within["var"] * freedom).sum() / freedom.sum() if len(within) else math.nan
            rows.append(
                {
                    "objective": objective,
                    "value": value,
                    **group[objective].agg(["mean", "std", "min", "max"]).to_dict(),
                    "count": len(group),
                    "num_points": int(group["point"].nunique()),
                    "seed_std": math.sqrt(variance),
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
    basis = np.linalg.qr(design - design.mean(axis=0))[0]
    shuffled = rng.permuted(np.tile(values - values.mean(), (resamples, 1)), axis=1)
    permuted = ((shuffled @ basis) ** 2).sum(axis=1)
    observed = float((((values - values.mean()) @ basis) ** 2).sum())
    samples = (rng.integers(0, n, n) for _ in range(resamples))
    boot = [_explained(design[rows], values[rows]) for rows in samples if np.ptp(values[rows]) > 0.0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(boot, [tail, 1 - tail])
    return {
        "importance": _explained(design, values),
        "low": float(low),
        "high": float(high),
        "p": float((np.sum(permuted >= observed * (1 - 1e-12)) + 1) / (resamples + 1)),
    }


def _design(column: pd.Series[Any], logarithm: bool) -> Float64:
    """Return (n, k) columns of the fit: a number and its square, or indicators of all choices but the first.

    A parameter that some points lack gets one more indicator (a number) or one more choice.
    """
    if pd.api.types.is_float_dtype(column.dtype):
        x = column.to_numpy(np.float64)
        present = ~np.isnan(x)
        known = np.log(x[present]) if logarithm else x[present]
        x = np.zeros(len(x))
        x[present] = (known - known.mean()) / (np.std(known) or 1.0)
        columns = [x, x**2][: len(np.unique(known)) - 1]
        if not present.all():
            columns.append(present.astype(np.float64))
        return np.column_stack(columns)
    texts = np.array(["(none)" if pd.isna(value) else str(value) for value in column])
    return np.asarray(texts[:, None] == np.unique(texts)[None, 1:], np.float64)


def _explained(design: Float64, values: Float64) -> float:
    """Return the adjusted R squared of least squares with a constant, at least 0."""
    n = len(values)
    y = values - values.mean()
    centred = design - design.mean(axis=0)
    fit, _, rank, _ = np.linalg.lstsq(centred, y, rcond=1e-10)
    if rank >= n - 1:
        return 0.0
    left = float(((y - centred @ fit) ** 2).sum() / (y**2).sum())
    return max(0.0, 1.0 - left * (n - 1) / (n - 1 - int(rank)))
