"""Reading search folders: finished, running, half-written, and those that cannot be used."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from hbt_dist.analysis import candidates, load_search, pareto_front
from hbt_dist.common.errors import UserError
from tests.analysis.made_search import (
    OBJECTIVES,
    STEPS,
    edit_search,
    rewrite_trial,
    write_search,
    write_trial,
)


@pytest.fixture
def search(tmp_path: Path) -> Path:
    return write_search(tmp_path / "search", points=4)


def lines_of(search: Path, trial: str) -> list[dict[str, float]]:
    text = (search / "trials" / trial / "history.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_tables_of_a_finished_search(search: Path) -> None:
    results = load_search(search)
    assert results.name == "made"
    assert results.objectives == OBJECTIVES
    assert results.parameters == ("batches.alpha", "optimizer.learning_rate")
    assert len(results.trials) == 8
    assert len(results.history) == 8 * len(STEPS)
    assert results.points["step"].tolist() == [150] * 4
    assert results.points["source"].tolist() == ["random"] * 4
    values = [lines_of(search, f"p0002-s{seed}")[-1]["monolingual"] for seed in (0, 1)]
    row = results.points.set_index("point").loc[2]
    assert row["monolingual"] == pytest.approx(sum(values) / 2)
    assert row["monolingual_std"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    assert row["monolingual_count"] == 2
    assert row["worker_hours"] == pytest.approx(2 * (1.2 * 150 + 60) / 3600)
    trial = results.trials.set_index("trial").loc["p0002-s1"]
    assert trial["monolingual"] == values[1]
    assert trial["error"] is None


def test_a_running_search_with_half_lines(search: Path) -> None:
    running = write_trial(
        search,
        3,
        1,
        {"batches.alpha": 1.0, "optimizer.learning_rate": 1e-3},
        (50, 100),
        [*OBJECTIVES],
        "running",
    )
    with (running / "history.jsonl").open("ab") as file:
        file.write('{"step": 150, "monolingual": 0.7, "note": "ä'.encode()[:-1])
    with (search / "points.jsonl").open("a") as file:
        file.write('{"point": 4, "para')
    (search / "trials" / "p0004-s0").mkdir()
    started = search / "trials" / "p0004-s1"
    write_trial(
        search, 4, 1, {"batches.alpha": 0.5, "optimizer.learning_rate": 1e-3}, (), [*OBJECTIVES], "running"
    )
    results = load_search(search)
    points = results.points.set_index("point")
    assert points.loc[3, "step"] == 100  # the last step that both seeds have evaluated
    assert points.loc[3, "num_seeds"] == 2
    assert 4 not in points.index  # not evaluated yet
    assert started.name in results.trials["trial"].tolist()
    assert results.point_values[4] == {"batches.alpha": 0.5, "optimizer.learning_rate": 1e-3}
    every = candidates(results).set_index(["point", "step"])
    assert every.loc[(3, 150), "num_seeds"] == 1
    assert math.isnan(every.loc[(3, 150), "monolingual_std"])


@pytest.mark.parametrize(
    "name", ["points.jsonl", "trials/p0000-s0/history.jsonl", "trials/p0000-s0/trial.json"]
)
def test_a_damaged_file_is_named(search: Path, name: str) -> None:
    (search / name).write_text("{half\n")
    with pytest.raises(UserError, match="is not JSON") as caught:
        load_search(search)
    assert name in caught.value.location


def test_failed_and_stopped_trials_count_as_far_as_they_came(search: Path) -> None:
    given = {"batches.alpha": 0.0, "optimizer.learning_rate": 1e-3}
    shutil.rmtree(search / "trials" / "p0000-s0")
    shutil.rmtree(search / "trials" / "p0000-s1")
    write_trial(search, 0, 0, given, (50,), [*OBJECTIVES], "stopped")
    write_trial(search, 0, 1, given, (), [*OBJECTIVES], "failed")
    results = load_search(search)
    assert results.trials["status"].tolist()[:2] == ["stopped", "failed"]
    assert results.trials["error"].tolist()[:3] == [None, "worker died", None]
    point = results.points.set_index("point").loc[0]
    assert (point["step"], point["num_seeds"]) == (50, 1)


def test_null_objectives_are_missing_values(search: Path) -> None:
    path = search / "trials" / "p0001-s0" / "history.jsonl"
    lines = lines_of(search, "p0001-s0")
    lines[-1]["monolingual"] = None  # type: ignore[assignment]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = load_search(search)
    row = results.points.set_index("point").loc[1]
    assert row["monolingual_count"] == 1
    assert row["crosslingual_count"] == 2


def test_the_later_line_of_a_step_holds(search: Path) -> None:
    again = {**lines_of(search, "p0000-s0")[0], "monolingual": 0.123}
    with (search / "trials" / "p0000-s0" / "history.jsonl").open("a") as file:
        file.write(json.dumps(again) + "\n")
    history = load_search(search).history
    rows = history[(history["trial"] == "p0000-s0") & (history["step"] == 50)]
    assert rows["monolingual"].tolist() == [0.123]


def test_parameters_of_every_kind(tmp_path: Path) -> None:
    schedule = {"schedule": "linear", "start": 1.0, "end": 0.0, "over_steps": 9}
    search = write_search(
        tmp_path / "search",
        points=3,
        extra={
            0: {"batches.mixture": {"monolingual": 0.25, "crosslingual": 0.75}, "batches.mixing": "shares"},
            1: {"batches.mixture": {"monolingual": 1.0}, "batches.alpha": schedule, "loss.flag": True},
            2: {"loss.flag": False, "seed": 3},
        },
    )
    points = load_search(search).points
    assert points["batches.mixture.monolingual"].tolist()[:2] == [0.25, 1.0]
    assert math.isnan(points["batches.mixture.crosslingual"][1])
    assert json.loads(points["batches.alpha"][1]) == schedule
    assert points["batches.alpha"][0] == "0.0"
    assert points["loss.flag"].tolist()[1:] == [True, False]
    assert points["run.seed"].tolist()[2] == 3
    assert pd.isna(points["batches.mixing"][1])


def test_the_front_takes_checkpoints_that_are_not_the_last(search: Path) -> None:
    for seed in (0, 1):
        path = search / "trials" / f"p0001-s{seed}" / "history.jsonl"
        lines = lines_of(search, f"p0001-s{seed}")
        lines[1]["crosslingual"] = 0.99
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = load_search(search)
    front = pareto_front(candidates(results), results.objectives)
    assert (1, 100) in list(zip(front["point"], front["step"], strict=True))


def test_no_search_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UserError, match="expected a search folder"):
            load_search(path)
    (tmp_path / "search.json").write_text('{"format": 1, "na')
    with pytest.raises(UserError, match="is not JSON"):
        load_search(tmp_path)


def test_another_format(search: Path) -> None:
    edit_search(search, format=2, hbt_dist="9.9")
    with pytest.raises(UserError, match=r"expected format 1, got 2, written by hbt-dist 9\.9") as caught:
        load_search(search)
    assert "use the version that wrote the folder" in str(caught.value)
    (search / "search.json").write_text("[]")
    with pytest.raises(UserError, match="expected a JSON object, got a list"):
        load_search(search)


@pytest.mark.parametrize("wrong", [["monolingual"], None])
def test_impossible_objectives(search: Path, wrong: object) -> None:
    edit_search(search, objectives=wrong)
    with pytest.raises(UserError, match="has no objectives"):
        load_search(search)


def test_nothing_evaluated_yet(search: Path) -> None:
    for path in search.glob("trials/*/history.jsonl"):
        path.unlink()
        rewrite_trial(path.parent, status="running")
    with pytest.raises(UserError, match=r"no evaluated trial yet \(8 running\)"):
        load_search(search)
    shutil.rmtree(search / "trials")
    with pytest.raises(UserError, match=r"no evaluated trial yet \(none started\)"):
        load_search(search)


def test_an_objective_that_is_not_reported(search: Path) -> None:
    edit_search(search, objectives={"monolingual": "max", "speed": "max"})
    with pytest.raises(UserError, match="reports no 'speed'") as caught:
        load_search(search)
    assert "p0000-s0" in caught.value.location
    assert caught.value.location.endswith("line 1")
    edit_search(search, objectives={"evaluation": "max"})
    with pytest.raises(UserError, match="as 'evaluation'"):
        load_search(search)
