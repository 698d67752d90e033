"""Compute the numbers of a study's report: means over seeds, and the gains that N seeds can detect."""

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

#: One-sided confidence of the upper limit of the spread in a plan (Browne 1995).
PLANNING_CONFIDENCE = 0.8


def seed_values(folders: dict[str, list[Path]]) -> pd.DataFrame:
    """Return one row per method and seed, in the order of the study's seeds; NaN for a missing figure."""
    rows = [
        {"method": method, "folder": str(folder), **headline_figures(read_results(folder))}
        for method, seed_folders in folders.items()
        for folder in seed_folders
    ]
    table = pd.DataFrame(rows, columns=["method", "folder", *OBJECTIVES])
    return table.astype(dict.fromkeys(OBJECTIVES, float))


def summary_table(values: pd.DataFrame) -> pd.DataFrame:
    """Return the number of seeds, and mean and standard deviation of each figure, one row per method.

    Args:
        values: from `seed_values`.
    """
    rows = []
    for method, group in values.groupby("method", sort=False):
        row: dict[str, object] = {"method": method, "seeds": len(group)}
        for name in OBJECTIVES:
            row[name] = group[name].mean()
            row[f"{name}_sd"] = group[name].std(ddof=1) if len(group) > 1 else math.nan
        rows.append(row)
    spreads = [column for name in OBJECTIVES for column in (name, f"{name}_sd")]
    return pd.DataFrame(rows, columns=["method", "seeds", *spreads])


def spread_limit(spread: float, num_seeds: int, confidence: float = PLANNING_CONFIDENCE) -> float:
    """Return the upper confidence limit of a standard deviation estimated from a few seeds.

    A plan with the estimate usually has less power than stated; a plan with this limit has the stated power
    in `confidence` of the cases (Browne 1995, Statistics in Medicine 14:1933).
    """
    freedom = num_seeds - 1
    return spread * math.sqrt(freedom / float(stats.chi2.ppf(1 - confidence, freedom)))


def detectable_gain(
    spread: float, measured_with: int, num_seeds: int, power: float = 0.8, *, tests: int = 1
) -> float:
    """Return the smallest true gain that a paired t test over `num_seeds` seeds finds with the given power.

    Args:
        spread: standard deviation of the gain between seeds, as measured.
        measured_with: number of measured seeds, at least two.
        num_seeds: seeds of the planned test, at least two.
        power: at most 0.99.
        tests: number of tests that are corrected together. Each has the level 5 % / tests, which Holm
            requires of the smallest p; the remaining levels are higher, so the gain is an upper bound.

    Returns:
        in the unit of `spread`; NaN if the spread is 0 or unknown.
    """
    if not math.isfinite(spread) or spread <= 0:
        return math.nan
    return _detectable_size(num_seeds, 0.05 / tests, power) * spread_limit(spread, measured_with)


@lru_cache
def _detectable_size(number: int, alpha: float, power: float) -> float:
    """Return the effect in standard deviations that a two-sided t test of `number` values finds.

    Solves for the power, a mean over quantiles of the estimated variance. statsmodels' `solve_power` returns
    a wrong root here: 4.29 instead of 5.67 at alpha 0.05 / 3 and three values.
    """
    freedom = number - 1
    least = float(stats.t.ppf(1 - alpha / 2, freedom))
    scale = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, freedom) / freedom)

    def missing(shift: float) -> float:
        rejected = stats.norm.cdf(shift - least * scale) + stats.norm.cdf(-shift - least * scale)
        return float(rejected.mean()) - power

    enough = least * math.sqrt(float(stats.chi2.ppf(0.999, freedom)) / freedom) + 4
    return float(brentq(missing, 0.0, enough)) / math.sqrt(number)
