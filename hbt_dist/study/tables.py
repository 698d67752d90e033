"""The numbers of a study's report: means over seeds, and the gains that so many seeds could detect."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq

from hbt_dist.evaluation.read_results import headline_figures, read_results
from hbt_dist.search.settings import OBJECTIVES

#: One-sided confidence of the limit of the spread that a plan is made with (Browne 1995).
PLANNING_CONFIDENCE = 0.8


def objectives(folder: Path) -> dict[str, float]:
    """The four headline figures of an evaluation; NaN where the benchmark has none."""
    figures = headline_figures(read_results(folder))
    return {name: math.nan if value is None else float(value) for name, value in figures.items()}


def seed_values(folders: dict[str, list[Path]]) -> pd.DataFrame:
    """One row per method and seed, in the order of the study's seeds."""
    return pd.DataFrame(
        [
            {"method": method, "folder": str(place), **objectives(place)}
            for method, places in folders.items()
            for place in places
        ]
    )


def summary_table(values: pd.DataFrame) -> pd.DataFrame:
    """One row per method: number of seeds; mean and standard deviation of each figure over the seeds.

    Args:
        values: of `seed_values`.
    """
    rows = []
    for method, group in values.groupby("method", sort=False):
        row: dict[str, object] = {"method": method, "seeds": len(group)}
        for name in OBJECTIVES:
            row[name] = group[name].mean()
            row[f"{name}_sd"] = group[name].std(ddof=1) if len(group) > 1 else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def spread_limit(spread: float, num_seeds: int, confidence: float = PLANNING_CONFIDENCE) -> float:
    """Upper confidence limit of a standard deviation that was estimated from a few seeds.

    A plan with the estimate itself has less power than it promises more often than not; with this limit it
    keeps the promise in `confidence` of the cases (Browne 1995, Statistics in Medicine 14:1933).
    """
    freedom = num_seeds - 1
    return spread * math.sqrt(freedom / float(stats.chi2.ppf(1 - confidence, freedom)))


def detectable_gain(
    spread: float, measured_with: int, num_seeds: int, power: float = 0.8, *, tests: int = 1
) -> float:
    """The smallest true gain that a paired t test over so many seeds finds with the given power.

    Args:
        spread: standard deviation of the gain between seeds, as measured.
        measured_with: seeds that it was measured with, at least two.
        num_seeds: seeds of the planned test, at least two.
        power: at most 0.99.
        tests: that are corrected together: each is taken at 5 % over their number, which is what Holm asks of
            the smallest p among them. Of the others it asks less, so the gain is an upper bound.

    Returns:
        in the unit of `spread`; NaN where that is 0 or not known.
    """
    if not math.isfinite(spread) or spread <= 0:
        return math.nan
    return _detectable_size(num_seeds, 0.05 / tests, power) * spread_limit(spread, measured_with)


@lru_cache
def _detectable_size(number: int, alpha: float, power: float) -> float:
    """The effect in standard deviations that a two-sided t test of so many values finds.

    The root of the power, a mean over quantiles of the estimated variance. Not statsmodels' `solve_power`: at
    alpha 0.05 / 3 and three values it stops at 4.29 where 5.67 is the root.
    """
    freedom = number - 1
    least = float(stats.t.ppf(1 - alpha / 2, freedom))
    scale = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, freedom) / freedom)

    def missing(shift: float) -> float:
        found = stats.norm.cdf(shift - least * scale) + stats.norm.cdf(-shift - least * scale)
        return float(found.mean()) - power

    enough = least * math.sqrt(float(stats.chi2.ppf(0.999, freedom)) / freedom) + 4
    return float(brentq(missing, 0.0, enough)) / math.sqrt(number)
