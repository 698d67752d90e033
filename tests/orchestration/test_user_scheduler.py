"""A user's scheduler stops trials by their stop files, cannot pause them, and knows earlier starts."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, PopulationBasedTraining

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.interruption import Interruption, stop_file
from hbt_dist.orchestration.user_scheduler import UserScheduler
from hbt_dist.search.folder import SearchFolder
from tests.analysis.made_search import write_search
from tests.search.test_sampler import make_search

SPACE = {"batches.alpha": {"uniform": [0, 1]}}


def scheduler_of(monkeypatch: pytest.MonkeyPatch, folder: Path, function: Any) -> tuple[Any, Interruption]:
    module = types.ModuleType("chosen")
    module.scheduler = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chosen", module)
    stopping = {"first_step": 50, "metric": "crosslingual", "scheduler": "chosen:scheduler"}
    sampler = {"kind": "random", "points": 3}
    search, interruption = make_search(SPACE, early_stopping=stopping, sampler=sampler), Interruption()
    return UserScheduler(search, SearchFolder(folder), interruption), interruption


def report(scheduler: UserScheduler, folder: Path, value: float) -> bool:
    """Report step 50 of a new trial; return whether it was stopped."""
    place = folder / "trials" / "p0099-s0"
    place.mkdir(parents=True, exist_ok=True)
    trial = SimpleNamespace(config={"trial": str(place), "parameters": {"batches.alpha": 0.5}})
    scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, trial, {"step": 50, "crosslingual": value}) == "CONTINUE"
    return stop_file(place).exists()


def halving(search: Any) -> Any:
    return AsyncHyperBandScheduler(time_attr="step", max_t=1000, grace_period=50)


def test_a_trial_behind_those_of_an_earlier_start_is_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    search = write_search(tmp_path / "search")
    assert not report(scheduler_of(monkeypatch, search, halving)[0], search, 0.99)
    assert report(scheduler_of(monkeypatch, search, halving)[0], search, 0.01)
    assert not report(scheduler_of(monkeypatch, tmp_path / "new", halving)[0], tmp_path / "new", 0.01)


def test_a_scheduler_that_pauses_ends_the_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Pausing(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
            return self.PAUSE

    scheduler, interruption = scheduler_of(monkeypatch, tmp_path, lambda search: Pausing())
    assert not report(scheduler, tmp_path, 0.5)
    assert interruption.requested
    assert "expected CONTINUE or STOP, got PAUSE: trials cannot pause" in str(scheduler.problem)


def test_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mutations = {"batches.alpha": [0, 1]}
    population = PopulationBasedTraining(hyperparam_mutations=mutations)
    for made in (population, object()):
        with pytest.raises(UserError, match=f"never pauses a trial, got {type(made).__name__}"):
            scheduler_of(monkeypatch, tmp_path, lambda search, made=made: made)
