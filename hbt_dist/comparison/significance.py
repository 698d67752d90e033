"""Test whether B is better than A: paired tests on per-question values, with an effect size and its interval.

The unit that is resampled is the question id (or its paragraph), never the row: the language versions of a
question are translations, and taking them for independent makes every difference significant. A unit's
value is the mean of its rows' differences, or, where figures are means over cells, its share of that mean
(`gains.PairedRows`).

    paired randomisation   flips the sign of each unit's difference: p of a mean difference as large as seen
    paired bootstrap       resamples units (BCa interval of the mean difference)
    effect size            Cohen's d of the paired differences, with a bootstrap interval

With thousands of questions nearly every difference is significant (Ihemelandu and Ekstrand, SIGIR 2023):
report the size. Holm's correction is for the comparisons that are reported together, step-down maxT for the
many cells of a matrix. Several training seeds are an outer level: first the mean over questions per seed,
then a test over seeds, paired: the same seed means the same initial weights and the same order of the data.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbt_dist.evaluation.matrix_rows import Float64

RESAMPLES = 9999
#: Level of every test in verdicts and marks.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Comparison:
    """B minus A over paired units."""

    num_units: int
    mean_a: float
    mean_b: float
    difference: float  # mean of B - A
    low: float  # bootstrap interval of the difference
    high: float
    p_randomisation: float  # two-sided
    p_bootstrap: float  # two-sided, share of resampled means beyond zero
    effect_size: float  # Cohen's d of the paired differences
    effect_low: float
    effect_high: float


def unit_means(values: Float64, units: NDArray[np.generic]) -> tuple[NDArray[np.generic], Float64]:
    """Return the sorted unit labels and the mean of each unit's values."""
    labels, index = np.unique(units, return_inverse=True)
    return labels, np.bincount(index, weights=values) / np.bincount(index)


def compare_paired(
    a: Float64,
    b: Float64,
    units: NDArray[np.generic] | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two systems on the same rows.

    Args:
        a, b: (n,) values of the systems, row by row.
        units: (n,) what each row belongs to: question id, or paragraph for a conservative interval.
        confidence: of the intervals.
        resamples: permutations and bootstrap samples.

    Raises:
        ValueError: different numbers of rows, or fewer than two units.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} values against {len(b)}")
    units = np.arange(len(a)) if units is None else units
    _, difference = unit_means(np.asarray(b, np.float64) - np.asarray(a, np.float64), units)
    mean_a, mean_b = (float(unit_means(np.asarray(x, np.float64), units)[1].mean()) for x in (a, b))
    return compare_units(difference, mean_a, mean_b, confidence=confidence, resamples=resamples, seed=seed)


def compare_units(
    difference: Float64,
    mean_a: float,
    mean_b: float,
    *,
    flipped: Float64 | None = None,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by their difference in every unit.

    Args:
        difference: (U,) values whose mean is the difference and whose spread is that of the units.
        mean_a, mean_b: of the systems.
        flipped: (U,) values with the same mean, whose signs the randomisation flips; default: `difference`.

    Raises:
        ValueError: fewer than two units.
    """
    if len(difference) < 2:
        raise ValueError("a comparison needs at least two units")
    flipped = difference if flipped is None else flipped
    mean = float(difference.mean())
    if np.ptp(difference) == 0.0:
        p = 1.0 if mean == 0.0 else 2.0 ** (1 - min(len(difference), 1000))
        size = 0.0 if mean == 0.0 else float(np.sign(mean)) * float("inf")
        return Comparison(len(difference), mean_a, mean_b, mean, mean, mean, p, p, size, size, size)
    from scipy import stats

    rng = np.random.default_rng(seed)
    if 2 ** len(flipped) <= resamples:  # all sign patterns
        randomisation = stats.permutation_test(
            (flipped,), _mean, permutation_type="samples", n_resamples=resamples, vectorized=True
        )
        p_randomisation = float(randomisation.pvalue)
    else:  # the same at random, as a matrix product: a tenth of the time
        p_randomisation = float(step_down_by_column(flipped[:, None], resamples=resamples, seed=seed)[0])
    low, high, means = _bootstrap(difference, _mean, confidence, resamples, rng)
    effect_low, effect_high, _ = _bootstrap(difference, _cohen, confidence, min(resamples, 1999), rng)
    beyond = (np.sum(means <= 0.0) + 1, np.sum(means >= 0.0) + 1)
    return Comparison(
        num_units=len(difference),
        mean_a=mean_a,
        mean_b=mean_b,
        difference=mean,
        low=low,
        high=high,
        p_randomisation=p_randomisation,
        p_bootstrap=float(min(1.0, 2.0 * min(beyond) / (len(means) + 1))),
        effect_size=float(_cohen(difference)),
        effect_low=effect_low,
        effect_high=effect_high,
    )


def mean_interval(
    values: Float64, confidence: float = 0.95, resamples: int = 1999, seed: int = 0
) -> tuple[float, float]:
    """Return the bootstrap interval (BCa) of the mean of (U,) values of units."""
    if np.ptp(values) == 0.0:
        return float(values[0]), float(values[0])
    return _bootstrap(values, _mean, confidence, resamples, np.random.default_rng(seed))[:2]


def step_down_by_column(differences: Float64, *, resamples: int = RESAMPLES, seed: int = 0) -> Float64:
    """Paired randomisation of many differences at once: two-sided p of each column, corrected for all.

    Westfall and Young's step-down maxT (Ge, Dudoit and Speed 2003, algorithm 4.1): a column's statistic is
    compared with the largest one of a permutation among the columns with statistics up to its size. A unit's
    sign is flipped in all columns together, so that the correction knows their dependence, which Holm's does
    not. (With few units, where the columns' statistics are distributed unlike each other, it can be the
    weaker one.) The cost grows linearly with the columns: one matrix product of (resamples, U) and (U, C).

    Args:
        differences: (U, C) B minus A by unit, NaN where a column has no value of the unit.
        resamples: permutations; no p is below 1 / (resamples + 1).

    Returns:
        (C,) p values, 1 for a column without differences.
    """
    filled = np.nan_to_num(differences)
    length = np.sqrt((filled**2).sum(axis=0))  # flips do not change it: then every sum has variance 1
    scaled = np.divide(filled, length, out=np.zeros_like(filled), where=length > 0)
    seen = np.abs(scaled.sum(axis=0))
    order = np.argsort(seen, kind="stable")
    scaled = np.ascontiguousarray(scaled[:, order])
    least = seen[order] * (1 - 1e-9)  # equal sums may differ in their last digit
    rng = np.random.default_rng(seed)
    beyond = np.zeros(len(order), np.int64)
    at_once = _batch(max(filled.shape))
    for start in range(0, resamples, at_once):
        flips = rng.integers(0, 2, (min(at_once, resamples - start), len(filled)), dtype=np.int8)
        sums = np.abs((2.0 * flips - 1.0) @ scaled)
        beyond += (np.maximum.accumulate(sums, axis=1) >= least).sum(axis=0)
    p = (beyond + 1) / (resamples + 1)
    corrected = np.empty(len(order))
    corrected[order] = np.maximum.accumulate(p[::-1])[::-1]  # never below that of a larger statistic
    return corrected


@dataclass(frozen=True)
class SeedTest:
    """A difference over S training seeds, paired by seed."""

    num_seeds: int
    difference: float
    low: float  # t interval
    high: float
    p: float  # two-sided paired t
    spread: float  # standard deviation of the difference between seeds


def compare_seeds(differences: Sequence[float], confidence: float = 0.95) -> SeedTest:
    """Paired t test over training seeds.

    Args:
        differences: B minus A of each seed, at least two.
    """
    values = np.asarray(differences, np.float64)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    if not values.any():
        return SeedTest(len(values), 0.0, 0.0, 0.0, 1.0, 0.0)
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # seeds that agree in all digits but the last
        result = stats.ttest_1samp(values, 0.0)
        interval = result.confidence_interval(confidence)
    return SeedTest(
        len(values), mean, float(interval.low), float(interval.high), float(result.pvalue), spread
    )


def can_claim(num_units: int, num_tests: int) -> bool:
    """Check whether a paired randomisation of this many units can be significant after Holm's correction."""
    return 2.0 ** (1 - num_units) * num_tests < SIGNIFICANT


def holm(p_values: Sequence[float]) -> list[float]:
    """Apply Holm's step-down correction; return the adjusted p values in the given order.

    Those of `statsmodels.stats.multitest.multipletests`, which collects garbage at every call: half a second
    each in a process that holds a study.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return list(adjusted.tolist())


def _mean(x: Float64, axis: int = -1) -> Float64:
    return np.asarray(np.mean(x, axis=axis))


def _cohen(x: Float64, axis: int = -1) -> Float64:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.mean(x, axis=axis) / np.std(x, axis=axis, ddof=1))


def _bootstrap(
    values: Float64, statistic: object, confidence: float, resamples: int, rng: np.random.Generator
) -> tuple[float, float, Float64]:
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # samples of one value repeated; the interval is checked below
        result = stats.bootstrap(
            (values,),
            statistic,
            confidence_level=confidence,
            n_resamples=resamples,
            method="BCa",
            vectorized=True,
            batch=_batch(len(values)),
            rng=rng,
        )
    low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    if not np.isfinite([low, high]).all():  # BCa is undefined for nearly constant data
        tail = (1 - confidence) / 2
        with np.errstate(invalid="ignore"):  # effect sizes of samples without any spread
            low, high = np.quantile(result.bootstrap_distribution, [tail, 1 - tail]).tolist()
    return low, high, np.asarray(result.bootstrap_distribution)


def _batch(num_units: int) -> int:
    """Resamples held at once: about 16 MB."""
    return max(1, 2_000_000 // num_units)
