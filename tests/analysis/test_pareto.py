"""The Pareto code against definitions written out by brute force."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_dist.analysis import best_points, knee_point, pareto_front
from hbt_dist.common.errors import UserError

NAMES = ("a", "b", "c", "d")


@st.composite
def tables(draw: st.DrawFn) -> tuple[pd.DataFrame, dict[str, str]]:
    """Rows of few distinct values, so that ties are common; sometimes NaN; any index."""
    size = draw(st.integers(1, 4))
    directions = draw(st.lists(st.sampled_from(["max", "min"]), min_size=size, max_size=size))
    value = st.integers(0, 5).map(float) | st.just(math.nan)
    rows = draw(st.lists(st.tuples(*[value] * size), max_size=9))
    frame = pd.DataFrame(rows, columns=list(NAMES[:size]), dtype=float)
    frame.index = draw(st.permutations(range(10, 10 + len(rows))))
    return frame, dict(zip(NAMES, directions, strict=False))


def as_losses(frame: pd.DataFrame, objectives: dict[str, str]) -> list[tuple[float, ...]]:
    signs = [-1.0 if direction == "max" else 1.0 for direction in objectives.values()]
    return [
        tuple(sign * row[name] for sign, name in zip(signs, objectives, strict=True))
        for _, row in frame.iterrows()
    ]


def dominates(p: tuple[float, ...], q: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(p, q, strict=True)) and any(x < y for x, y in zip(p, q, strict=True))


@given(tables())
def test_front_is_what_none_dominates(given_table: tuple[pd.DataFrame, dict[str, str]]) -> None:
    frame, objectives = given_table
    losses = as_losses(frame, objectives)
    complete = [loss for loss in losses if not any(math.isnan(value) for value in loss)]
    wanted = [
        index
        for index, loss in zip(frame.index, losses, strict=True)
        if loss in complete and not any(dominates(other, loss) for other in complete)
    ]
    assert list(pareto_front(frame, objectives).index) == wanted


@given(tables())
def test_knee_is_on_the_front_and_nearest_to_the_ideal(
    given_table: tuple[pd.DataFrame, dict[str, str]],
) -> None:
    frame, objectives = given_table
    front = pareto_front(frame, objectives)
    if front.empty:
        with pytest.raises(UserError, match="no row has a value of every objective"):
            knee_point(frame, objectives)
        return
    losses = np.array(as_losses(front, objectives))
    span = np.where(np.ptp(losses, axis=0) > 0, np.ptp(losses, axis=0), 1.0)
    distance = np.linalg.norm((losses - losses.min(axis=0)) / span, axis=1)
    knee = knee_point(frame, objectives)
    assert distance[list(front.index).index(knee.name)] == pytest.approx(distance.min())


def test_knee_of_a_bulging_front_is_its_bulge_whatever_the_units() -> None:
    frame = pd.DataFrame({"map": [0.1, 0.6, 0.9, 0.95, 1.0], "distance": [1.0, 2.0, 4.0, 30.0, 90.0]})
    objectives = {"map": "max", "distance": "min"}
    assert knee_point(frame, objectives).name == 2
    scaled = frame.assign(distance=frame["distance"] * 1000 + 5)
    assert knee_point(scaled, objectives).name == 2


def test_best_points() -> None:
    frame = pd.DataFrame({"a": [1.0, 3.0, math.nan], "b": [5.0, 2.0, 2.0], "c": [math.nan] * 3})
    best = best_points(frame, {"a": "max", "b": "min", "c": "max"})
    assert list(zip(best["objective"], best.index, strict=True)) == [("a", 1), ("b", 1)]


def test_mistakes() -> None:
    frame = pd.DataFrame({"a": [1.0]})
    with pytest.raises(UserError, match="is not a column"):
        pareto_front(frame, {"b": "max"})
    with pytest.raises(UserError, match="expected max or min"):
        pareto_front(frame, {"a": "up"})
    with pytest.raises(UserError, match="expected at least one"):
        pareto_front(frame, {})
