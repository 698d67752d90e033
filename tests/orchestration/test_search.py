"""A real search: the driver killed, then a worker killed, then the same command to the end."""

from __future__ import annotations

from pathlib import Path

import pytest

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
