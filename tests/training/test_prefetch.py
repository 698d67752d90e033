"""Rows are made one step ahead, each once, in order, and with the errors of their own step."""

from __future__ import annotations

import threading

import pytest

from hbt_dist.training.prefetch import Prefetcher


def test_the_next_is_made_while_this_one_is_used() -> None:
    made: list[int] = []
    there = {step: threading.Event() for step in range(3, 6)}

    def make(step: int) -> int:
        made.append(step)
        there[step].set()
        if step == 5:
            raise ValueError("of step 5")
        return 10 * step

    with Prefetcher(make, total=6) as ahead:
        assert ahead.take(3) == 30
        assert there[4].wait(60)  # nobody has asked for it
        assert ahead.take(4) == 40
        assert there[5].wait(60)
        with pytest.raises(ValueError, match="of step 5"):
            ahead.take(5)
    assert made == [3, 4, 5]


def test_nothing_is_made_beyond_the_last_step() -> None:
    made: list[int] = []
    with Prefetcher(made.append, total=2) as ahead:
        ahead.take(0)
        ahead.take(1)
    assert made == [0, 1]
