"""Real searches: driver and worker killed, then the same command to the end; a trial stopped early."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.helpers.searches import SearchProcess, steps_of, write_search


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_search_survives_its_driver_and_a_worker_and_leaves_nothing(tmp_path: Path) -> None:
    file = write_search(tmp_path, [0.0, 1.0], [0], steps=60)
    first = SearchProcess(file)
    first.wait_until(lambda: len(list(first.folder.glob("trials/*/run/checkpoints/step-*0"))) > 0, 400)
    first.kill_driver()
    assert first.leftovers() == []
    assert set(first.statuses().values()) == {"running"}

    second = SearchProcess(file)
    second.wait_until(lambda: second.statuses().get("p0000-s0") == "finished", 400)
    second.wait_until((second.folder / "trials/p0001-s0/run/metrics.jsonl").exists, 400)
    second.kill_a_worker()
    assert second.end(400) == 0, second.tail()
    assert second.leftovers() == []
    assert second.statuses() == {"p0000-s0": "finished", "p0001-s0": "finished"}
    for trial in second.statuses():
        assert steps_of(second.folder, trial)[-1] == 60
        log = (second.folder / "trials" / trial / "run" / "log.txt").read_text("utf-8")
        assert (trial == "p0001-s0") or "continuing from the checkpoint of step" in log

    third = SearchProcess(file)  # nothing is left to do
    assert third.end(200) == 0, third.tail()
    assert "0 trials to run" in third.tail()
    assert third.leftovers() == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_trial_that_falls_behind_is_stopped_and_makes_room(tmp_path: Path) -> None:
    """The second of three points cannot learn; the third needs the workers that it gives back."""
    file = write_search(
        tmp_path,
        [0.5],
        [0],
        steps=360,
        space={"optimizer.learning_rate": {"choice": [3e-3, 1e-9, 3.1e-3]}},
        early_stopping={"metric": "monolingual", "first_step": 60, "reduction": 2},
    )
    base = file.parent / "base.yaml"
    run = yaml.safe_load(base.read_text("utf-8"))
    run["training"]["checkpoint_every"] = 60
    base.write_text(yaml.safe_dump(run), "utf-8")
    search = SearchProcess(file)
    search.wait_until((search.folder / "trials/p0001-s0/stop").exists, 600)
    search.wait_until(lambda: search.statuses()["p0001-s0"] == "stopped", 60)
    search.wait_until(lambda: "p0002-s0" in search.statuses(), 60)
    assert search.end(500) == 0, search.tail()
    assert search.leftovers() == []
    statuses = search.statuses()
    assert statuses["p0000-s0"] == "finished"
    assert statuses["p0001-s0"] == "stopped"
    assert steps_of(search.folder, "p0001-s0")[-1] < 360
    assert not (search.folder / "trials/p0001-s0/run/model").exists()
    assert "removing a placement group" not in search.tail()
