"""Paired tests against closed forms and against scipy's own t-test."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from hbt_dist.comparison.significance import (
    compare_paired,
    compare_seeds,
    holm,
    step_down_by_column,
    unit_means,
)


def test_agrees_with_the_t_test_on_ordinary_data():
    rng = np.random.default_rng(0)
    a = rng.random(400)
    b = a + rng.normal(0.01, 0.1, 400)
    found = compare_paired(a, b, resamples=4999)
    t = stats.ttest_rel(b, a)
    interval = t.confidence_interval()
    assert found.difference == pytest.approx(np.mean(b - a), abs=1e-12)
    assert found.p_randomisation == pytest.approx(t.pvalue, abs=0.02)
    assert found.p_bootstrap == pytest.approx(t.pvalue, abs=0.03)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.002)
    assert found.effect_low < found.effect_size < found.effect_high
    assert found.effect_size == pytest.approx(t.statistic / 20, abs=1e-9)


def test_small_sample_is_exact():
    """Five differences of one sign: 2 of 32 sign patterns are as extreme."""
    found = compare_paired(np.zeros(5), np.array([0.1, 0.2, 0.3, 0.4, 0.5]))
    assert found.p_randomisation == pytest.approx(2 / 32)


def test_one_column_is_the_paired_test():
    rng = np.random.default_rng(2)
    for shift in (0.0, 0.01, 0.03, 0.2):
        difference = rng.normal(shift, 0.1, 80)
        alone = compare_paired(np.zeros(80), difference).p_randomisation
        assert step_down_by_column(difference[:, None])[0] == pytest.approx(alone, abs=0.02)


def test_columns_are_corrected_as_the_definition_says():
    """All sign patterns of seven units in plain loops, each column against those not above it."""
    rng = np.random.default_rng(3)
    difference = rng.normal([0.0, 0.3, 0.6, 1.0, 0.6], 0.5, (7, 5))
    difference[:, 4] = difference[:, 2] + rng.normal(0, 0.05, 7)  # two columns that say nearly the same
    difference[2, 1] = np.nan
    filled = np.nan_to_num(difference)

    def statistics(signs: tuple[int, ...]) -> list[float]:
        return [
            abs(sum(s * value for s, value in zip(signs, column, strict=True))) / np.linalg.norm(column)
            for column in filled.T
        ]

    seen = statistics((1,) * 7)
    patterns = [statistics(signs) for signs in itertools.product((1, -1), repeat=7)]
    wanted: list[float] = []
    for column in range(5):
        not_above = [other for other in range(5) if seen[other] <= seen[column]]
        at_least = sum(max(found[other] for other in not_above) >= seen[column] - 1e-9 for found in patterns)
        wanted.append(at_least / len(patterns))
    wanted = [
        max(p for p, other in zip(wanted, seen, strict=True) if other >= mine) for mine in seen
    ]  # never below a larger statistic's
    found = step_down_by_column(difference, resamples=40000)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    alone = [compare_paired(np.zeros(7), column).p_randomisation for column in filled.T]
    assert found[2] < 0.9 * holm(alone)[2]


def test_one_false_alarm_in_twenty_matrices():
    """Forty columns that depend on each other and do not differ: some p is below .05 in 5 % of the cases."""
    rng = np.random.default_rng(4)
    alarms = 0
    for case in range(400):
        difference = rng.normal(size=(30, 1)) + rng.normal(size=(30, 40))
        alarms += step_down_by_column(difference, resamples=199, seed=case).min() < 0.05
    assert 4 <= alarms <= 36  # 20 expected (18 with these 199 permutations), four standard deviations


def test_columns_with_gaps_and_without_change():
    """A unit without a value counts for nothing; five of one sign: 2 of 32 patterns; no change: p is 1."""
    difference = np.array([[0.1, 0.0, np.nan]] * 5 + [[np.nan, 0.0, 0.3]])
    found = step_down_by_column(difference, resamples=20000)
    assert found[:2] == pytest.approx([2 / 32, 1.0], abs=0.006)
    assert found[2] == 1.0


def test_translations_are_one_unit():
    """Eleven copies of each question must not make a chance difference significant."""
    rng = np.random.default_rng(1)
    difference = rng.normal(0.02, 0.2, 60)
    units = np.repeat(np.arange(60), 11)
    copied = np.repeat(difference, 11)
    by_unit = compare_paired(np.zeros(660), copied, units, resamples=1999)
    assert by_unit.num_units == 60
    assert by_unit.difference == pytest.approx(difference.mean())
    by_row = compare_paired(np.zeros(660), copied, resamples=1999)
    assert by_row.high - by_row.low < 0.5 * (by_unit.high - by_unit.low)


def test_unit_means_and_bad_input():
    labels, means = unit_means(np.array([1.0, 3.0, 5.0]), np.array(["b", "a", "b"]))
    assert labels.tolist() == ["a", "b"]
    assert means.tolist() == [3.0, 3.0]
    with pytest.raises(ValueError, match="at least two"):
        compare_paired(np.zeros(3), np.ones(3), np.zeros(3))
    with pytest.raises(ValueError, match="against"):
        compare_paired(np.zeros(3), np.ones(4))


def test_no_difference_and_constant_difference():
    same = compare_paired(np.ones(9), np.ones(9))
    assert (same.difference, same.p_randomisation, same.effect_size) == (0.0, 1.0, 0.0)
    shifted = compare_paired(np.zeros(9), np.ones(9))
    assert shifted.low == shifted.high == 1.0
    assert shifted.p_randomisation == pytest.approx(2 / 2**9)


def test_holm_and_seeds():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []
    p_values = np.random.default_rng(0).random(40) ** 4
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])
    old, new = np.array([0.5, 0.55, 0.51]), np.array([0.6, 0.64, 0.62])
    found = compare_seeds((new - old).tolist())
    paired = stats.ttest_rel(new, old)
    interval = paired.confidence_interval()
    assert (found.num_seeds, found.difference) == (3, pytest.approx(0.1))
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, paired.pvalue))
    assert found.spread == pytest.approx(0.01)
    assert compare_seeds([0.0, 0.0]).p == 1.0
