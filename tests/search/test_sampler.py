"""What a search tries: the grid, and Optuna against random draws where the front is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hbt_dist.search.sampler import GridSampler, OptunaSampler, make_sampler
from hbt_dist.search.settings import SearchFile

BENCHMARK = {"name": "sample", "variant": "dev"}


def make_search(space: dict[str, Any], **more: Any) -> SearchFile:
    data = {"name": "s", "output_dir": "s", "run": "quickstart", "space": space, "benchmark": BENCHMARK}
    return SearchFile.model_validate({**data, **more})


def ask_all(sampler: Any) -> list[dict[str, Any]]:
    found = []
    while (point := sampler.draw()) is not None:
        found.append(point)
    return found


def test_a_grid_holds_every_combination_once() -> None:
    search = make_search(
        {
            "batches.alpha": {"range": [0, 1, 0.25]},
            "optimizer.learning_rate": {"choice": [1e-3, 1e-4]},
            "batches.hard_negatives.count": {"integer": [0, 2]},
        }
    )
    points = ask_all(make_sampler(search, []))
    assert len(points) == 5 * 2 * 3
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert sorted({point["batches.alpha"] for point in points}) == [0, 0.25, 0.5, 0.75, 1]
    later = ask_all(make_sampler(search, [(point, None) for point in points[:7]]))
    assert later == points[7:]


def test_a_simplex_grid_holds_every_mixture_of_its_step() -> None:
    kinds = ["monolingual", "crosslingual", "any_pair"]
    search = make_search({"batches.mixture": {"simplex": kinds, "simplex_step": 0.25}})
    mixtures = [point["batches.mixture"] for point in ask_all(GridSampler(search.space))]
    assert len(mixtures) == math.comb(4 + 2, 2)
    for mixture in mixtures:
        assert sum(mixture.values()) == pytest.approx(1)
        assert all(share > 0 for share in mixture.values())


def test_simplex_draws_are_uniform() -> None:
    """Dirichlet(1, 1, 1): each share has mean 1/3 and variance 1/18, and each pair covariance -1/36."""
    kinds = ["monolingual", "crosslingual", "any_pair"]
    search = make_search({"batches.mixture": {"simplex": kinds}}, sampler={"kind": "random", "points": 1500})
    points = ask_all(make_sampler(search, []))
    shares = np.array([[point["batches.mixture"][kind] for kind in kinds] for point in points])
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(shares.mean(0), 1 / 3, atol=0.025)
    np.testing.assert_allclose(shares.var(0), 1 / 18, atol=0.008)
    assert np.cov(shares.T)[0, 1] == pytest.approx(-1 / 36, abs=0.006)


def test_draws_are_the_same_for_the_same_seed_and_others_after_a_resume() -> None:
    space = {"loss.temperature": {"log_uniform": [0.01, 1]}, "optimizer.learning_rate": {"uniform": [0, 1]}}
    search = make_search(space, sampler={"kind": "random", "points": 6})
    whole = ask_all(make_sampler(search, []))
    assert whole == ask_all(make_sampler(search, []))
    assert all(0.01 <= point["loss.temperature"] <= 1 for point in whole)
    resumed = ask_all(make_sampler(search, [(point, None) for point in whole[:4]]))
    assert len(resumed) == 2
    assert not any(point in whole for point in resumed)


SPACE = {f"x.{i}": {"uniform": [0, 1]} for i in range(6)}
TWO = ["monolingual", "crosslingual"]


def outcome(point: dict[str, float]) -> dict[str, float]:
    """ZDT1 turned upside down (Zitzler, Deb, Thiele 2000): both objectives are maximised, front at g = 1."""
    x = [point[f"x.{i}"] for i in range(6)]
    g = 1 + 9 * sum(x[1:]) / 5
    return {"monolingual": 1 - x[0], "crosslingual": 1 - g * (1 - math.sqrt(x[0] / g))}


def reached(kind: str, seed: int, points: int = 60) -> float:
    """Hypervolume above (0, -9) after so many points."""
    search = make_search(SPACE, objectives=TWO, sampler={"kind": kind, "points": points, "seed": seed})
    sampler = make_sampler(search, [])
    found = []
    for number in range(points):
        point = sampler.draw()
        assert point is not None
        found.append(outcome(point))
        sampler.record(number, point, found[-1])
    area, height = 0.0, -9.0
    for values in sorted(found, key=lambda values: -values["monolingual"]):
        area += values["monolingual"] * max(values["crosslingual"] - height, 0.0)
        height = max(height, values["crosslingual"])
    return area


def test_learned_draws_dominate_more_than_random_ones() -> None:
    wins = [reached("optuna", seed) > reached("random", seed) for seed in range(5)]
    assert sum(wins) >= 4, wins


def test_earlier_points_are_learned_from() -> None:
    """After many points that are good only at x.0 near 0.9, draws gather there."""
    search = make_search(
        {"x.0": {"uniform": [0, 1]}}, objectives=["monolingual"], sampler={"kind": "optuna", "points": 200}
    )
    sampler = OptunaSampler(search, [])
    for x in np.linspace(0, 1, 40):
        assert sampler.learn({"x.0": float(x)}, {"monolingual": -abs(float(x) - 0.9)})
    draws = []
    for _ in range(20):
        point = sampler.draw()
        assert point is not None
        draws.append(point["x.0"])
    assert np.median(np.abs(np.array(draws) - 0.9)) < 0.15


@pytest.mark.parametrize(
    ("point", "objectives"),
    [
        ({"x.0": 1.5}, {"monolingual": 1.0}),
        ({"y": 0.5}, {"monolingual": 1.0}),
        ({"x.0": "high"}, {"monolingual": 1.0}),
        ({"x.0": 0.5}, {"crosslingual": 1.0}),
        ({"x.0": 0.5}, {"monolingual": math.nan}),
    ],
)
def test_points_of_another_space_are_not_learned_from(point: Any, objectives: Any) -> None:
    search = make_search(
        {"x.0": {"uniform": [0, 1]}}, objectives=["monolingual"], sampler={"kind": "optuna", "points": 2}
    )
    assert not OptunaSampler(search, []).learn(point, objectives)


def test_every_form_survives_a_resume() -> None:
    space = {
        "a": {"uniform": [0, 1]},
        "b": {"log_uniform": [0.1, 1]},
        "c": {"integer": [1, 4]},
        "d": {"choice": [0.5, {"schedule": "linear"}, "size"]},
        "e": {"range": [0, 1, 0.1]},
        "batches.mixture": {"simplex": ["monolingual", "crosslingual"]},
    }
    search = make_search(space, objectives=["monolingual"], sampler={"kind": "optuna", "points": 30})
    sampler = OptunaSampler(search, [])
    points = ask_all(sampler)
    again = OptunaSampler(search, [])
    assert all(again.learn(point, {"monolingual": 0.5}) for point in points)


def test_a_weighted_sum_is_one_objective() -> None:
    search = make_search(
        {"x.0": {"uniform": [0, 1]}},
        sampler={"kind": "optuna", "points": 2, "weights": {"monolingual": 1.0, "rank_distance": -0.001}},
    )
    sampler = OptunaSampler(search, [])
    point = sampler.draw()
    assert point is not None
    figures = {"monolingual": 0.5, "crosslingual": 0.1, "multilingual": 0.1, "rank_distance": 100.0}
    sampler.record(0, point, figures)
    assert sampler._study.best_value == pytest.approx(0.4)
