"""The numbers of a study's report: means over seeds, comparisons with the baseline, gains by language family.

Family gains: per question id the mean gain of the cells of a family pair (question family -> candidate
family), averaged over the seeds; the interval is a bootstrap over question ids. Seeds are the other source
of chance: their spread stands beside it, and `seeds_needed` says how many would resolve the gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from hbt_dist.evaluation.compare import StoredEvaluation, read_evaluation
from hbt_dist.evaluation.languages import describe
from hbt_dist.search.config import OBJECTIVES

SETTINGS = ("monolingual", "crosslingual", "multilingual")
FAMILIES = ("Indo-European", "Uralic")
_RESAMPLES = 2000


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
    pairs = list(zip(baseline, system, strict=False))
    frames = []
    for number, (old, new) in enumerate(pairs):
        values = []
        for place in (old, new):
            frame = read_evaluation(place).values("crosslingual", "map")
            for key in ("question_id", "question_language", "candidate_language"):
                frame[key] = frame[key].astype(str)
            values.append(frame.drop(columns="question_cluster"))
        joined = values[0].merge(
            values[1],
            on=["question_id", "question_language", "candidate_language"],
            suffixes=("_old", "_new"),
        )
        joined["seed"] = number
        frames.append(joined)
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True)
    languages = rows[["question_language", "candidate_language"]].drop_duplicates()
    names = {
        (question, candidate): family_pair(question, candidate)
        for question, candidate in languages.itertuples(index=False)
    }
    keys = zip(rows["question_language"], rows["candidate_language"], strict=True)
    rows["pair"] = [names[key] for key in keys]
    rows["gain"] = rows["value_new"] - rows["value_old"]
    found = []
    for pair, part in rows.dropna(subset="pair").groupby("pair", sort=True):
        per_question = part.groupby("question_id")["gain"].mean().to_numpy()
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(per_question), (_RESAMPLES, len(per_question)))
        means = per_question[draws].mean(axis=1)
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        per_seed = part.groupby("seed")["gain"].mean().to_numpy()
        gain = float(part["gain"].mean())
        spread = float(per_seed.std(ddof=1)) if len(per_seed) > 1 else math.nan
        found.append(
            {
                "pair": pair,
                "cells": int(part.groupby(["question_language", "candidate_language"]).ngroups),
                "questions": len(per_question),
                "baseline": float(part["value_old"].mean()),
                "gain": gain,
                "low": float(low),
                "high": float(high),
                "seed_sd": spread,
                "p_seeds": _p_of_seeds(per_seed),
                "seeds_needed": seeds_needed(gain, spread),
            }
        )
    return pd.DataFrame(found)


def _p_of_seeds(gains: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    if len(gains) < 2 or gains.std() == 0:
        return math.nan
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
