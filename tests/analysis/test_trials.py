"""Cost of trials, and pair matrices of two of them."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from hbt_dist.analysis import cost, load_search, pair_difference
from hbt_dist.common.errors import UserError
from tests.analysis.made_search import rewrite_trial, write_search


@pytest.fixture
def search(tmp_path: Path) -> Path:
    return write_search(tmp_path / "search", points=2)


def matrix(search: Path, trial: str, step: int) -> np.ndarray:
    path = search / "trials" / trial / "evaluation" / f"step-{step}" / "sample" / "pair_matrix.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    return np.array([[float(cell or "nan") for cell in row[1:]] for row in rows])


def test_pair_difference_is_the_second_minus_the_first(search: Path) -> None:
    found = pair_difference(load_search(search), "p0000-s0", "p0001-s1")
    wanted = matrix(search, "p0001-s1", 150) - matrix(search, "p0000-s0", 150)
    np.testing.assert_array_equal(found.to_numpy(), wanted)
    assert found.index.tolist() == found.columns.tolist() == ["en", "fi", "nan"]
    assert (found.index.name, found.columns.name) == ("question_language", "candidate_language")
    assert np.isnan(found.loc["nan", "en"])


def test_the_last_evaluation_that_is_there_counts(search: Path) -> None:
    shutil.rmtree(search / "trials" / "p0001-s1" / "evaluation" / "step-150")
    found = pair_difference(load_search(search), "p0000-s0", "p0001-s1")
    assert (found.attrs["step_a"], found.attrs["step_b"]) == (150, 100)
    wanted = matrix(search, "p0001-s1", 100) - matrix(search, "p0000-s0", 150)
    np.testing.assert_array_equal(found.to_numpy(), wanted)


def test_trials_that_cannot_be_compared(search: Path) -> None:
    results = load_search(search)
    with pytest.raises(UserError, match=r"has no trial 'p0009-s0'") as caught:
        pair_difference(results, "p0000-s0", "p0009-s0")
    assert "p0000-s0, p0000-s1" in caught.value.remedy
    folder = search / "trials" / "p0001-s1" / "evaluation"
    (folder / "step-150" / "sample" / "pair_matrix.csv").write_text("question_language,en\nen,0.5\n")
    with pytest.raises(UserError, match="expected equal languages"):
        pair_difference(results, "p0000-s0", "p0001-s1")
    (folder / "step-150" / "sample" / "pair_matrix.csv").write_text("question_language,en\nen,half")
    with pytest.raises(UserError, match="is not a pair matrix"):
        pair_difference(results, "p0000-s0", "p0001-s1")
    (folder / "step-150" / "sample" / "pair_matrix.csv").write_text("")
    with pytest.raises(UserError, match="is not a pair matrix"):
        pair_difference(results, "p0000-s0", "p0001-s1")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="has no evaluation"):
        pair_difference(results, "p0000-s0", "p0001-s1")


def test_cost_per_trial_and_in_total(search: Path) -> None:
    rewrite_trial(search / "trials" / "p0000-s0", worker_seconds=7200)
    # While a trial runs, its history is newer than trial.json.
    rewrite_trial(search / "trials" / "p0001-s0", worker_seconds=10, status="running")
    table = cost(load_search(search)).set_index("trial")
    assert table.index.tolist() == ["p0000-s0", "p0000-s1", "p0001-s0", "p0001-s1", "total"]
    assert table.loc["p0000-s0", "worker_hours"] == 2.0
    assert table.loc["p0001-s0", "worker_hours"] == pytest.approx(1.2 * 150 / 3600)
    assert table.loc["total", "worker_hours"] == pytest.approx(table["worker_hours"][:-1].sum())
    assert table.loc["total", "steps"] == 600
