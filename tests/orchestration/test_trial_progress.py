"""Lines about the steps of running trials."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from hbt_dist.orchestration import trial_progress
from hbt_dist.orchestration.trial_progress import shown_trials
from hbt_dist.search.folder import Trial


def test_each_trial_shows_its_last_new_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_progress, "SECONDS_BETWEEN_LINES", 0.05)
    trial = Trial(tmp_path / "p0001-s0", 1, 0, {"batches.alpha": 0.5})
    metrics = trial.folder / "run" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    (trial.folder / "plan.json").write_text(json.dumps({"run": {"training": {"steps": 60}}}), "utf-8")
    shown: list[str] = []
    with shown_trials({"a": trial}, shown.append):
        time.sleep(0.2)
        metrics.write_text('{"step": 29, "loss": 2.0}\n{"step": 30, "loss": 1.2345}\n{"step": 31', "utf-8")
        time.sleep(0.3)
    assert shown == ["p0001-s0 alpha=0.5: step 30 of 60, loss 1.234"]
