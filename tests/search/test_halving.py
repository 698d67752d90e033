"""Successive halving over several starts of a search."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hbt_dist.orchestration.tune import Halving
from hbt_dist.search.folder import SearchFolder
from hbt_dist.search.settings import EarlyStopping
from tests.analysis.made_search import write_search


def recorded(scheduler: Halving) -> dict[int, dict[str, float]]:
    """Rung -> trial -> the value that it is judged by."""
    (bracket,) = scheduler._brackets
    return {rung: dict(values) for rung, values in bracket._rungs if values}


def test_a_continued_trial_is_not_judged_again(tmp_path: Path) -> None:
    """Tune gives it another number; at the rung that it passed before, its old value stays the only one."""
    folder = SearchFolder(write_search(tmp_path / "search", points=3, seeds=(0,)))
    settings = EarlyStopping(metric="monolingual", first_step=50, reduction=2)
    scheduler = Halving.continued(settings, folder)
    before = recorded(scheduler)
    assert set(before[50]) == {"p0000-s0", "p0001-s0", "p0002-s0"}
    (trial,) = [one for one in folder.trials() if one.name == "p0001-s0"]
    tunes: Any = SimpleNamespace(trial_id="abc_00000", config={"trial": str(trial.folder)})
    scheduler.on_trial_add(None, tunes)
    later = {"step": 200, "monolingual": 0.999}
    assert scheduler.on_trial_result(None, tunes, later) == "CONTINUE"
    after = recorded(scheduler)
    assert after[50] == before[50]
    assert after[200] == {"p0001-s0": pytest.approx(0.999)}
    scheduler.on_trial_complete(None, tunes, later)
    assert recorded(scheduler) == after
    scheduler.on_trial_remove(None, tunes)


def test_a_bad_trial_is_asked_to_stop(tmp_path: Path) -> None:
    folder = SearchFolder(write_search(tmp_path / "search", points=3, seeds=(0,)))
    scheduler = Halving.continued(EarlyStopping(metric="rank_distance", first_step=50, reduction=2), folder)
    stop = tmp_path / "search" / "trials" / "p0007-s0"
    stop.mkdir()
    tunes: Any = SimpleNamespace(trial_id="abc_00001", config={"trial": str(stop)})
    scheduler.on_trial_add(None, tunes)
    assert scheduler.on_trial_result(None, tunes, {"step": 50, "rank_distance": 1e6}) == "CONTINUE"
    assert (stop / "stop").exists()
