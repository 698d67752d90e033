"""A trial runs two threads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from hbt_dist.orchestration import train, trial
from hbt_dist.orchestration.trial import trial_scoring
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import Trial
from tests.helpers.runs import tiny_run


def test_a_trial_measures_on_the_gpu_that_it_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of them on a node see its eight GPUs, and `auto` would be the first one for all."""
    run = RunFile.model_validate(tiny_run(Path("/out"), Path("/cache")))
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    assert trial_scoring(run).device == "cpu"
    named = {"scoring": {"device": "cuda:1"}}
    named_run = RunFile.model_validate(tiny_run(Path("/out"), Path("/cache"), evaluation=named))
    assert trial_scoring(named_run).device == "cuda:1"
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    assert trial_scoring(run).device == "auto"


def test_a_trial_whose_workers_find_no_room_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = RunFile.model_validate(tiny_run(tmp_path / "out", tmp_path / "cache"))
    for failures, raised in ((3, False), (4, True)):
        left = [train.WorkersNotStartedError("cluster", "full")] * failures

        def training(*_: object, left: list[Exception] = left, **__: object) -> None:
            if left:
                raise left.pop()

        monkeypatch.setattr(train, "train_on_ray", training)
        if raised:
            with pytest.raises(train.WorkersNotStartedError):
                trial.train_with_retries(run, tmp_path / "stop")
        else:
            trial.train_with_retries(run, tmp_path / "stop")
        assert left == []


_PROGRAM = """
import sys
import time
from pathlib import Path

from hbt_dist.orchestration import train, trial

def training(run, **__):
    folder = Path(run.output_dir)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\\n{"step": 7, "loss": 1.0}\\n')
    time.sleep(2)
    print("transformers is ready:", hasattr(sys.modules.get("transformers"), "AutoTokenizer"))

train.train_on_ray = training
trial.run_trial(Path(sys.argv[1]), lambda figures: None)
"""


@pytest.mark.slow
def test_transformers_is_imported_before_there_are_two_threads(tmp_path: Path) -> None:
    """Imported in both at once it is incomplete in one; our own process has it already, so a new one."""
    run = RunFile.model_validate(tiny_run(tmp_path / "trial" / "run", tmp_path / "cache"))
    Trial(tmp_path / "trial", 0, 0, {}).write_plan(run, None)
    command = [sys.executable, "-c", _PROGRAM, str(tmp_path / "trial")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert "transformers is ready: True" in done.stdout, done.stderr
    assert not (tmp_path / "trial" / "error.txt").exists()
    record = json.loads((tmp_path / "trial" / "trial.json").read_text("utf-8"))
    assert record["steps"] == 7  # without a benchmark, too
    assert 2 <= record["training_seconds"] < record["seconds"]
    assert record["worker_seconds"] == pytest.approx(record["workers"] * record["training_seconds"], abs=0.2)
