"""Distances recompute from the tables; the tests find an effect where there is one and none where not."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_dist.comparison.typology import (
    DISTANCES,
    distance_effect,
    distance_effects,
    group_contrast,
    language_distances,
    permutation_test,
)
from hbt_dist.data.language_facts import LANGUAGES

XQUAD = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
FROM_ENGLISH = {"de": 0.097, "es": 0.178, "ru": 0.188, "fi": 0.289, "hu": 0.306, "hi": 0.384, "sw": 0.526}


def simulated_gain(distance, slope, seed=0, noise=0.005):
    rng = np.random.default_rng(seed)
    size = len(distance)
    asking, answering = rng.normal(0, 0.02, (2, size))
    return slope * distance + asking[:, None] + answering + rng.normal(0, noise, (size, size))


def test_syntactic_distances_are_those_published_for_uriel():
    for code, value in FROM_ENGLISH.items():
        assert language_distances(["en", code], "syntax")[0, 1] == pytest.approx(value, abs=5e-4)
    upper = language_distances(XQUAD, "syntax")[np.triu_indices(11, 1)]
    assert (upper.min(), upper.max()) == pytest.approx((0.096, 0.674), abs=5e-4)
    assert np.median(upper) == pytest.approx(0.361, abs=5e-4)


@pytest.mark.parametrize("source", DISTANCES)
def test_distances_are_distances(source):
    languages = sorted(LANGUAGES)
    distance = language_distances(languages, source)
    there = ~np.isnan(distance)
    np.testing.assert_array_equal(distance, distance.T)
    assert (np.diag(distance) == 0).all()
    assert (distance[there] >= -1e-12).all()
    assert there.mean() > 0.35
    assert np.isnan(language_distances(["en", "xx"], source)[0, 1])


def test_geography_and_families():
    assert language_distances(["fi", "et"], "geography")[0, 1] * 20015 == pytest.approx(700, abs=250)
    assert language_distances(["fi", "hu", "en"], "family").tolist() == [[0, 0, 1], [0, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="none of"):
        language_distances(["en"], "taste")


def test_finds_the_slope_that_is_there():
    gain = simulated_gain(language_distances(XQUAD, "syntax"), 0.04)
    effect = distance_effect(gain, XQUAD, "syntax")
    assert effect.slope == pytest.approx(0.04, abs=0.012)
    assert effect.mixed_low < 0.04 < effect.mixed_high
    assert effect.p_permutation == 0.001
    assert "grows" in effect.verdict
    assert "shrinks" in distance_effect(-gain, XQUAD, "syntax").verdict


def test_finds_nothing_where_nothing_is():
    distance = language_distances(XQUAD, "syntax")
    p = [permutation_test(simulated_gain(distance, 0.0, seed), distance, 99)[2] for seed in range(40)]
    assert np.mean(np.array(p) <= 0.05) < 0.15
    assert 0.3 < np.mean(p) < 0.7


def test_few_languages_all_relabellings_and_empty_cells():
    distance = language_distances(XQUAD[:6], "syntax")
    gain = simulated_gain(distance, 0.04)
    gain[0, 1] = np.nan
    effect = distance_effect(gain, XQUAD[:6], "syntax")
    assert (effect.num_permutations, effect.num_pairs) == (719, 29)
    few = distance_effect(gain[:5, :5], XQUAD[:5], "syntax")
    assert "too few languages" in few.verdict
    assert np.isnan(few.p_permutation)


def test_no_pair_of_languages_has_a_figure():
    """As in MIRACL: every question is answered in its own language alone."""
    languages = ("ar", "en", "es", "fi", "hi", "sw", "zh")
    gain = np.where(np.eye(7, dtype=bool), 0.5, np.nan)
    for effect in distance_effects(gain, languages):
        assert effect.verdict == "no question has a relevant candidate in another language"
        assert effect.num_pairs == 0
        assert np.isnan([effect.slope, effect.p_permutation, effect.p_holm]).all()
    gain[0, 1] = 0.1
    assert "does not vary" in distance_effect(gain, languages, "syntax").verdict
    unknown = ("xx", "en", "es", "fi", "hi", "sw", "zh")  # the one figure is of a language without distances
    assert "no two languages that have" in distance_effect(gain, unknown, "geography").verdict


def test_group_contrast():
    languages = ["en", "de", "es", "ru", "el", "hi", "fi", "et", "hu", "tr"]
    gain = np.array([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 2.0, 2.1, 2.2, 9.0])
    found = group_contrast(gain, languages)
    assert found.languages_b == ("fi", "et", "hu")
    assert found.difference == pytest.approx(2.1 - 1.25)
    assert found.p_permutation == pytest.approx(2 / 84, abs=1e-9)
    assert "a difference" in found.verdict
    assert "too few languages" in group_contrast(gain[5:7], languages[5:7]).verdict
    assert "no language of Uralic" in group_contrast(gain[:4], languages[:4]).verdict


@pytest.mark.parametrize(("first", "second"), [(5, 2), (6, 2), (4, 3), (8, 2), (3, 3), (8, 3)])
def test_the_lowest_p_is_the_one_that_perfect_separation_has(first, second):
    languages = ["en", "de", "es", "ru", "el", "hi", "cs", "sv"][:first] + ["fi", "et", "hu"][:second]
    rng = np.random.default_rng(0)
    for _ in range(5):
        gain = np.concatenate([rng.random(first), 2 + rng.random(second)])
        found = group_contrast(gain, languages)
        assert found.p_permutation == pytest.approx(found.smallest_p)
        assert ("too few" in found.verdict) == (found.smallest_p > 0.05)


def test_a_distance_is_judged_after_the_correction():
    """Five distances are tried: a p of .02 in one of them is no finding."""
    distance = language_distances(XQUAD, "geography")
    changed = 0
    for seed in range(30):
        gain = simulated_gain(distance, 0.006, seed)
        for effect in distance_effects(gain, XQUAD, mixed=False):
            assert effect.p_holm >= effect.p_permutation
            assert ("no evidence" in effect.verdict) == (effect.p_holm >= 0.05)
            changed += effect.p_permutation < 0.05 <= effect.p_holm
        if changed:
            return
    pytest.fail("no effect that the correction takes back")


def test_one_language_of_a_family_is_no_group():
    contrast = group_contrast(np.array([0.1, 0.2, 0.3]), ["en", "de", "fi"])
    assert contrast.difference == pytest.approx(0.15)
    assert np.isnan(contrast.p_permutation)
    assert "too few languages" in contrast.verdict
