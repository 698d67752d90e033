"""The arithmetic of a study's plan: what so many seeds can detect."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from hbt_dist.study.tables import detectable_gain, spread_limit


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
@pytest.mark.parametrize("tests", [1, 3, 15])
def test_a_detectable_gain_is_detected_in_80_percent_of_the_cases(num_seeds: int, tests: int) -> None:
    """With the spread at its limit, which is what the plan assumes; several tests share the 5 %."""
    gain = detectable_gain(0.01, 3, num_seeds, tests=tests)
    rng = np.random.default_rng(num_seeds)
    drawn = rng.normal(gain, spread_limit(0.01, 3), (40_000, num_seeds))
    found = stats.ttest_1samp(drawn, 0.0, axis=1).pvalue < 0.05 / tests
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_corrected_tests_detect_larger_gains_only() -> None:
    """In standard deviations, from tables of the noncentral t distribution."""
    for num_seeds, wanted in ((3, (3.26, 4.63, 7.32)), (5, (1.68, 2.05, 2.63))):
        found = [
            detectable_gain(1.0, 3, num_seeds, tests=tests) / spread_limit(1.0, 3) for tests in (1, 2, 5)
        ]
        assert found == pytest.approx(wanted, abs=0.006)


@pytest.mark.parametrize("num_seeds", [2, 3, 10])
def test_the_limit_of_the_spread_is_one(num_seeds: int) -> None:
    rng = np.random.default_rng(0)
    spreads = rng.normal(0, 1, (40_000, num_seeds)).std(axis=1, ddof=1)
    above = np.mean(spreads * spread_limit(1.0, num_seeds) >= 1.0)
    assert above == pytest.approx(0.8, abs=0.01)


def test_more_seeds_detect_less_and_no_spread_tells_nothing() -> None:
    gains = [detectable_gain(0.01, 3, number) for number in (2, 3, 5, 10, 20)]
    assert gains == sorted(gains, reverse=True)
    assert math.isnan(detectable_gain(0.0, 3, 3))
    assert math.isnan(detectable_gain(math.nan, 3, 3))
