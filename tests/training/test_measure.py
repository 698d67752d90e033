"""Checkpoints are measured while training goes on, and the best one stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.run_file import RunFile, load_run
from hbt_dist.training.checkpoints.export import export_checkpoint
from hbt_dist.training.checkpoints.measure import objectives_of
from hbt_dist.training.checkpoints.retention import best_step, removable, validation_lines
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import tiny_run
from tests.helpers.tensorboard import scalars
from tests.training.conftest import Launch

DEV = {"name": "sample", "variant": "dev", "languages": ["de", "fi"]}


def validating(launch: Launch, folder: Path, **changes: Any) -> tuple[Path, Path]:
    changes |= {
        "training__trackers": ["tensorboard"],
        "training__keep_best": "crosslingual",
        "training__keep_checkpoints": 1,
    }
    return launch.file(folder, evaluation={"checkpoint_benchmarks": [DEV]}, **changes)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_checkpoint_is_measured_and_the_best_stays(launch: Launch, tmp_path: Path) -> None:
    file, output = validating(launch, tmp_path, deepspeed__config=1)
    launch.finish(file, 2)
    folder, label = RunFolder(output), BenchmarkSettings.model_validate(DEV).label
    lines = validation_lines(folder)
    assert [(line["step"], line["benchmark"]) for line in lines] == [(2, label), (4, label), (6, label)]
    best = best_step(lines, "crosslingual")
    assert {6, best} <= set(folder.checkpoint_steps())
    shown = scalars(folder.tensorboard)[f"validation/{label}/crosslingual"]
    assert shown == [(line["step"], pytest.approx(line["crosslingual"])) for line in lines]
    # The figures are those of the checkpoint, evaluated by hand.
    export_checkpoint(folder.checkpoint(6), tmp_path / "model")
    out = tmp_path / "by-hand"
    evaluate_job(
        str(tmp_path / "model"), load_run(str(file)).evaluation.checkpoint_benchmarks[0], out, quiet=True
    )
    by_hand = objectives_of(out)
    assert {name: lines[-1][name] for name in by_hand} == by_hand
    matrix = "pair_matrix.csv"
    assert (output / lines[-1]["evaluation"] / matrix).read_bytes() == (out / matrix).read_bytes()
    # Started again there is nothing to do, and nothing is measured twice.
    launch.finish(file, 2)
    assert len(folder.validation.read_text("utf-8").splitlines()) == 3


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_measurement_that_fails_does_not_end_the_training(launch: Launch, tmp_path: Path) -> None:
    file, output = validating(launch, tmp_path, deepspeed__config=None)
    (output / "evaluation").parent.mkdir(parents=True)
    (output / "evaluation").write_text("in the way", "utf-8")
    launch.finish(file, 1)
    assert (output / "model").is_dir()
    log = (output / "log.txt").read_text("utf-8")
    assert (
        f"warning: validation of step 6: evaluation: {output / 'evaluation'}" in log
    )  # not its last words only
    lines = validation_lines(RunFolder(output))
    assert [(line["step"], line["failed"]) for line in lines] == [(2, True), (4, True), (6, True)]
    # keep_best does not hoard what cannot be measured
    assert removable([2, 4, 6], load_run(str(file)).training, RunFolder(output)) == {2, 4}


def test_the_best_of_nothing_is_refused(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache", training__keep_best="monolingual")
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(run), "utf-8")
    with pytest.raises(UserError, match=r"keep_best needs evaluation\.checkpoint_benchmarks"):
        load_run(str(file))


def test_search_trials_watch_themselves(tmp_path: Path) -> None:
    from hbt_dist.orchestration.trial import without_measurements

    run = tiny_run(tmp_path / "out", tmp_path / "cache", training__keep_best="monolingual")
    run |= {"evaluation": {"checkpoint_benchmarks": [DEV]}}
    run["training"]["storage"] = str(tmp_path)
    alone = without_measurements(RunFile.model_validate(run))
    assert alone.training.storage is None
    assert alone.training.keep_best is None
    assert alone.evaluation.checkpoint_benchmarks == ()


@pytest.mark.slow
def test_measuring_ends_with_the_training(tmp_path: Path) -> None:
    """Its parent is killed with no chance to say so, while it still waits for what to measure."""
    starter = (
        "import os, subprocess, sys; "
        "below = [sys.executable, '-m', 'hbt_dist.training.checkpoints.measure', str(os.getpid())]; "
        "started = subprocess.Popen(below, stderr=subprocess.DEVNULL); "
        "print(started.pid, flush=True); started.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path
    ) as parent:
        assert parent.stdout is not None
        measuring = psutil.Process(int(parent.stdout.readline()))
        with pytest.raises(psutil.TimeoutExpired):
            measuring.wait(8)
        os.kill(parent.pid, signal.SIGKILL)
        measuring.wait(20)
