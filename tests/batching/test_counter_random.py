"""Counter-based randomness: bijections, uniformity, and sums compared with loops."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from hbt_dist.batching.counter_random import below, derive_key, floor_sum, hash64, permute, uniform


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_permutation(size: int, key: int) -> None:
    slots = np.arange(size)
    image = permute(slots, np.full(size, size), np.full(size, key, np.uint64))
    np.testing.assert_array_equal(np.sort(image), slots)


def test_permute_treats_each_element_by_its_own_size_and_key() -> None:
    sizes = np.array([1, 2, 7, 100, 5000])
    keys = np.arange(5, dtype=np.uint64) * np.uint64(977)
    slots = sizes - 1
    together = permute(slots, sizes, keys)
    alone = [permute(slots[i : i + 1], sizes[i : i + 1], keys[i : i + 1])[0] for i in range(5)]
    np.testing.assert_array_equal(together, alone)


def test_permutations_are_uniform_over_keys() -> None:
    for size in (2, 5, 12, 33):
        keys = hash64(1, np.arange(20_000))
        for slot in (0, size // 2, size - 1):
            image = permute(np.full(20_000, slot), np.full(20_000, size), keys)
            assert chisquare(np.bincount(image, minlength=size)).pvalue > 1e-5
    first = permute(np.zeros(20_000, np.int64), np.full(20_000, 6), keys)
    second = permute(np.ones(20_000, np.int64), np.full(20_000, 6), keys)
    pairs = np.bincount(first * 6 + second, minlength=36).reshape(6, 6)
    assert chisquare(pairs[~np.eye(6, dtype=bool)]).pvalue > 1e-5


def test_uniform_and_below() -> None:
    draws = uniform(derive_key("test"), np.arange(50_000))
    assert kstest(draws, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.02
    assert chisquare(np.bincount(below(3, np.arange(30_000), 7), minlength=7)).pvalue > 1e-4
    limits = np.arange(1, 200)
    drawn = below(4, limits, limits)
    assert (drawn >= 0).all()
    assert (drawn < limits).all()


def test_keys_depend_on_every_part_and_order() -> None:
    parts: list[tuple[str | int, ...]] = [("a", 1), ("a", 2), (1, "a"), ("a1",), ("a", "1")]
    assert len({derive_key(*one) for one in parts}) == len(parts)


def test_numbers_are_the_same_on_every_machine() -> None:
    assert derive_key("kind", 0) == 5571675662916000008
    assert hash64(1, np.arange(2)).tolist() == [9506087726907147786, 6652587683579779273]


@given(st.integers(0, 200), st.integers(0, 500), st.integers(0, 2000))
@settings(max_examples=200, deadline=None)
def test_floor_sum(n: int, a: int, b: int) -> None:
    for modulus in (1, 7, 97, 256):
        got = floor_sum(np.array([n]), modulus, a, np.array([b]))[0]
        assert got == sum((a * i + b) // modulus for i in range(n))
