"""The numbers of a study's report: means over seeds, comparisons with the baseline, gains by language family.

Family gains are those of a family pair (question family -> candidate family), with an interval over question
ids. Seeds are the other source of chance: their spread stands beside it, and `seeds_needed` says how many
would resolve the gain.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from hbt_dist.evaluation.compare import StoredEvaluation, read_evaluation
from hbt_dist.evaluation.gains import group_gains
from hbt_dist.evaluation.languages import describe
from hbt_dist.search.config import OBJECTIVES

SETTINGS = ("monolingual", "crosslingual", "multilingual")
FAMILIES = ("Indo-European", "Uralic")


def objectives(one: StoredEvaluation) -> dict[str, float]:
    """The four headline figures of an evaluation; NaN where the benchmark has none."""
    means = one.results["means"]
    found = {setting: means[setting]["macro"]["map"] for setting in SETTINGS}
    found["rank_distance"] = one.results["bias"]["rank_distance"]["macro"]
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def summary_table(folders: dict[str, list[Path]]) -> pd.DataFrame:
    """One row per method: number of seeds; mean and standard deviation of each figure over the seeds."""
    rows = []
    for method, places in folders.items():
        values = pd.DataFrame([objectives(read_evaluation(place)) for place in places])
        row: dict[str, object] = {"method": method, "seeds": len(places)}
        for name in OBJECTIVES:
            row[name] = values[name].mean() if len(values) else math.nan
            row[f"{name}_sd"] = values[name].std(ddof=1) if len(values) > 1 else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def seed_values(folders: dict[str, list[Path]]) -> pd.DataFrame:
    """One row per method and seed, in the order of the study's seeds."""
    return pd.DataFrame(
        [
            {"method": method, "folder": str(place), **objectives(read_evaluation(place))}
            for method, places in folders.items()
            for place in places
        ]
    )


def family_pair(question: str, candidate: str) -> str | None:
    """Such as ``Indo-European -> Uralic``; none if a language is of another family."""
    asked, found = describe(question).family, describe(candidate).family
    return f"{asked} -> {found}" if asked in FAMILIES and found in FAMILIES else None


def family_gains(baseline: Sequence[Path], system: Sequence[Path], confidence: float = 0.95) -> pd.DataFrame:
    """Cross-lingual mAP gain per pair of families, with what chance could make of it.

    Args:
        baseline: evaluation folders, one per seed.
        system: the same, seed by seed.

    Returns:
        rows: pair, cells, questions, baseline, gain, low, high (bootstrap over question ids), seed_sd (of the
        gain between seeds), p_seeds (paired t over seeds), seeds_needed (80 % power at 5 %, two-sided).
    """
    old, new = ([read_evaluation(place) for place in places] for places in (baseline, system))
    found = group_gains(old, new, family_pair, confidence).rename(columns={"group": "pair"})
    if found.empty:
        return found
    seeds = found.pop("per_seed")
    found["seed_sd"] = [float(gains.std(ddof=1)) if len(gains) > 1 else math.nan for gains in seeds]
    found["p_seeds"] = [_p_of_seeds(gains) for gains in seeds]
    spreads = zip(found["gain"], found["seed_sd"], strict=True)
    found["seeds_needed"] = [seeds_needed(gain, spread) for gain, spread in spreads]
    return found


def _p_of_seeds(gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    if len(gains) < 2 or gains.std() == 0:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # gains that agree in all digits but the last
        return float(stats.ttest_1samp(gains, 0.0).pvalue)


def seeds_needed(gain: float, spread: float, most: int = 1000) -> float:
    """Fewest paired seeds with which a t test at 5 % finds the gain with 80 % power; NaN if more than `most`.

    Power of the noncentral t distribution, taking the measured spread as the true one; integrated over the
    chi-square of the estimated spread, as scipy's own tail probabilities fail for large effects.
    """
    if not math.isfinite(spread) or spread <= 0 or gain == 0:
        return math.nan
    quantiles = (np.arange(4000) + 0.5) / 4000
    for count in range(2, most + 1):
        freedom = count - 1
        bound = stats.t.ppf(0.975, freedom) * np.sqrt(stats.chi2.ppf(quantiles, freedom) / freedom)
        shift = abs(gain) / spread * math.sqrt(count)
        power = float(np.mean(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)))
        if power >= 0.8:
            return float(count)
    return math.nan
