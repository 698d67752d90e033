"""The numbers of a study's report: means over seeds, and the gains that so many seeds could detect."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.power import TTestPower

from hbt_dist.evaluation.stored import headline_figures, read_results
from hbt_dist.search.config import OBJECTIVES

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


def detectable_gain(spread: float, measured_with: int, num_seeds: int, power: float = 0.8) -> float:
    """The smallest true gain that a paired t test at 5 % over so many seeds finds with the given power.

    Args:
        spread: standard deviation of the gain between seeds, as measured.
        measured_with: seeds that it was measured with, at least two.
        num_seeds: seeds of the planned test, at least two.
    """
    if not math.isfinite(spread) or spread <= 0:
        return math.nan
    size = TTestPower().solve_power(effect_size=None, nobs=num_seeds, alpha=0.05, power=power)
    return float(np.squeeze(size)) * spread_limit(spread, measured_with)
