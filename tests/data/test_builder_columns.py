"""Columns and hashes of a corpus while it is built: what they give back, and what they hold."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_dist.data.corpus import columns
from hbt_dist.data.corpus.columns import HashNumbers, StoredColumn


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1024, 2048, 2**63]), max_size=60))
def test_hashes_are_numbered_by_their_first_appearance(values: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_FIRST_SLOTS", 2)  # grows and collides from the start
        patch.setattr(columns, "_HASHES_PER_ROUND", 3)
        numbers = HashNumbers()
        seen: dict[int, int] = {}
        for value in values:
            assert numbers.number(value) == seen.setdefault(value, len(seen))
        assert len(numbers) == len(seen)
        assert [numbers.number(value) for value in seen] == list(range(len(seen)))


def test_many_hashes_take_28_bytes_each() -> None:
    numbers = HashNumbers()
    values = np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64).tolist()
    assert [numbers.number(value) for value in values] == list(range(len(values)))
    assert [numbers.number(value) for value in values] == list(range(len(values)))
    held = sys.getsizeof(numbers._hashes) + sys.getsizeof(numbers._slots)
    assert held < 28 * len(values)


@pytest.mark.parametrize("length", [0, 1, columns._VALUES_PER_WRITE, 3 * columns._VALUES_PER_WRITE + 7])
@pytest.mark.parametrize(("code", "scale"), [("i", 1), ("q", 2**40), ("Q", 2**48)])
def test_a_column_gives_back_its_values(tmp_path: Path, length: int, code: str, scale: int) -> None:
    column = StoredColumn(tmp_path / "column", code)
    for number, value in zip(range(length), count(0, scale), strict=False):
        assert len(column) == number
        column.append(value)
        assert len(column._waiting) < columns._VALUES_PER_WRITE
    values = column.values()
    assert values.dtype.char == np.dtype(code).char
    assert values.tolist() == [number * scale for number in range(length)]
