"""Importance finds what matters, says when it is chance; curves are means over runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hbt_dist.analysis import SearchResults, curve, importance, load_search
from hbt_dist.common.errors import UserError
from tests.analysis.made_search import edit_search, write_search


def made_results(points: pd.DataFrame, parameters: tuple[str, ...]) -> SearchResults:
    empty = pd.DataFrame()
    return SearchResults(Path("made"), {}, {"y": "max"}, parameters, empty, empty, points, {})


def many_points(rng: np.random.Generator, count: int = 40) -> pd.DataFrame:
    """y is best in the middle of a (no correlation), better with kind "x"; b does nothing."""
    a, b = rng.random(count), rng.random(count)
    kind = rng.choice(["x", "y"], count)
    y = -4 * (a - 0.5) ** 2 + 0.3 * (kind == "x") + rng.normal(0, 0.02, count)
    return pd.DataFrame({"a": a, "b": b, "kind": kind, "one": 1.0, "y": y})


def test_importance_is_the_share_of_variance_and_knows_chance() -> None:
    rng = np.random.default_rng(5)
    points = many_points(rng, 400)
    found = importance(made_results(points, ("b", "a", "kind", "one"))).set_index("parameter")
    assert "one" not in found.index  # it does not vary
    # Shares of the made variance: parabola 16 / 180, choice 0.09 / 4, noise 0.0004.
    total = 16 / 180 + 0.09 / 4 + 0.0004
    assert found.loc["a", "importance"] == pytest.approx(16 / 180 / total, abs=0.05)
    assert found.loc["kind", "importance"] == pytest.approx(0.09 / 4 / total, abs=0.05)
    assert found.loc["b", "importance"] < 0.02
    assert found.loc["a", "p"] == found.loc["kind", "p"] == 0.001
    assert found.loc["b", "p"] > 0.05
    assert (found["low"] <= found["importance"]).all()
    assert (found["importance"] <= found["high"]).all()
    assert found.index.tolist() == ["a", "kind", "b"]


def test_the_scale_is_the_searchs_own(tmp_path: Path) -> None:
    """A uniform draw near zero spans orders of magnitude and stays linear."""
    points = many_points(np.random.default_rng(5), 60)
    points.loc[0, "a"] = 1e-9
    assert importance(made_results(points, ("a",)))["importance"][0] > 0.6
    search = write_search(tmp_path / "search")
    forms = {"log_uniform (0.0001, 0.01)": 1, "choice [0.0001, 0.001, 0.01]": 1, "uniform (0.0001, 0.01)": 0}
    for form, wanted in forms.items():
        edit_search(search, space={"optimizer.learning_rate": form, "batches.alpha": "uniform (0, 1)"})
        assert load_search(search).log_parameters == frozenset(["optimizer.learning_rate"][:wanted])


def test_a_dozen_points_find_what_dominates() -> None:
    points = many_points(np.random.default_rng(8), 12)
    found = importance(made_results(points, ("a", "b"))).set_index("parameter")
    assert found.loc["a", "p"] < 0.05 < found.loc["b", "p"]


def test_chance_is_uniform() -> None:
    """Where nothing matters, p below 0.1 comes about in a tenth of the searches."""
    rng = np.random.default_rng(2)
    small = 0
    for _ in range(200):
        points = pd.DataFrame({"a": rng.random(10), "y": rng.random(10)})
        small += importance(made_results(points, ("a",)), resamples=99)["p"].tolist()[0] <= 0.1
    assert 8 <= small <= 34  # 20 expected; within about 3 standard deviations


def test_missing_values_are_choices_and_few_points_give_no_number() -> None:
    points = many_points(np.random.default_rng(7), 12)
    points.loc[:5, "a"] = np.nan
    points["text"] = [f"choice {i}" for i in range(12)]
    found = importance(made_results(points, ("a", "text", "b")), resamples=9).set_index("parameter")
    assert found["importance"].isna().to_dict() == {"a": False, "text": True, "b": False}
    points["a"] = points["a"].where(points["a"].isna(), 1.0)
    found = importance(made_results(points, ("a",)), resamples=9)
    assert found["num_values"].tolist() == [2]
    assert found["importance"].notna().all()
    few = importance(made_results(points.iloc[:3], ("b",)), resamples=9)
    assert few["importance"].isna().all()
    assert few["num_points"].tolist() == [3]
    assert importance(made_results(points.iloc[:1], ("a", "b"))).empty
    flat = importance(made_results(points.assign(y=1.0), ("b",)), resamples=9)
    assert flat["importance"].isna().all()


def test_curve(tmp_path: Path) -> None:
    results = load_search(write_search(tmp_path / "search"))
    found = curve(results, "optimizer.learning_rate")
    assert found["value"].tolist()[:3] == [1e-4, 1e-3, 1e-2]
    last = results.history[results.history["step"] == 150].merge(
        results.points[["point", "optimizer.learning_rate"]], on="point"
    )
    for _, row in found.iterrows():
        runs = last[last["optimizer.learning_rate"] == row["value"]]
        values = runs[row["objective"]]
        assert row["count"] == 4
        assert row["num_points"] == 2
        assert row["mean"] == pytest.approx(values.mean())
        assert row["std"] == pytest.approx(values.std())
        assert (row["min"], row["max"]) == (values.min(), values.max())
        within = runs.groupby("point")[row["objective"]].var()
        assert row["seed_std"] == pytest.approx(np.sqrt(within.mean()))
    with pytest.raises(UserError, match=r"did you mean 'batches\.alpha'"):
        curve(results, "batches.alpah")
