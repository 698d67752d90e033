"""SIGTERM and Ctrl-C to searches and studies: trials are saved and continue, nothing is left behind."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.orchestration import trial as trial_module
from hbt_dist.orchestration.interruption import Interruption, is_interrupted, stop_file
from hbt_dist.orchestration.tune import NextTrial
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.training.checkpoints.manifest import verify
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import BIN, finish, left_behind, losses, session_of, start, tiny_run
from tests.helpers.searches import SearchProcess, write_search
from tests.orchestration.test_evaluation import make_model
from tests.study.test_study import write_study


def waiting_trial(folder: Path) -> Trial:
    trial = Trial(folder / "trials" / "p0000-s0", 0, 0, {})
    run = RunFile.model_validate(tiny_run(trial.folder / "run", folder / "cache"))
    trial.write_plan(run, None)
    return trial


def test_trials_that_train_are_awaited_and_others_end(tmp_path: Path) -> None:
    trial = waiting_trial(tmp_path)
    interruption = Interruption()
    interruption.running["a"] = trial
    training = RunFolder(trial.folder / "run")
    training.acquire()
    assert not interruption.stop_all()
    assert not stop_file(trial.folder).exists()
    interruption.request()
    assert not interruption.stop_all()
    assert is_interrupted(trial.folder)
    stop_file(trial.folder).unlink()  # as a training does that starts meanwhile
    assert not interruption.stop_all()
    assert is_interrupted(trial.folder)
    training.release()
    assert interruption.stop_all()


def test_halving_stays_in_force(tmp_path: Path) -> None:
    """A trial that halving has stopped ends for good, also if a signal comes before its end."""
    trial = waiting_trial(tmp_path)
    stop_file(trial.folder).touch()
    interruption = Interruption()
    interruption.running["a"] = trial
    interruption.request()
    interruption.stop_all()
    assert not is_interrupted(trial.folder)


@pytest.mark.parametrize(("signalled", "status"), [(True, "running"), (False, "stopped")])
def test_an_interrupted_trial_is_not_ended(
    signalled: bool, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = waiting_trial(tmp_path)
    interruption = Interruption()
    source: Any = SimpleNamespace(next=lambda: trial, ended=lambda _: None, remaining=lambda: 0)
    searcher = NextTrial(source, interruption, lambda _: None)
    assert searcher.suggest("a")["trial"] == str(trial.folder)

    def train(_: RunFile, file: Path) -> None:
        if signalled:
            interruption.request()
            interruption.stop_all()
        else:
            file.touch()

    monkeypatch.setattr(trial_module, "train_with_retries", train)
    trial_module.run_trial(trial.folder, lambda _: None)
    searcher.on_trial_complete("a")
    assert trial.status() == status
    assert list(interruption.running) == (["a"] if signalled else [])
    assert (searcher.suggest("b") == "FINISHED") is signalled
    assert [found.name for found in SearchFolder(tmp_path).trials()] == [trial.name]


def trained_steps(search: SearchProcess, trial: str) -> int:
    file = search.folder / "trials" / trial / "run" / "metrics.jsonl"
    return file.read_text("utf-8").count("\n") if file.is_file() else 0


def interrupt(file: Path, command: str, number: int, after_step: int) -> tuple[int, str, int]:
    """Start, send the signal after a step of the first trial; return exit code, output, steps."""
    search = SearchProcess(file, command)
    search.wait_until(lambda: trained_steps(search, "p0000-s0") > after_step, 200)
    search.signal(number)
    code = search.end(100)
    assert search.leftovers() == []
    assert search.statuses() == {"p0000-s0": "running"}
    run = search.folder / "trials" / "p0000-s0" / "run"
    steps = len(losses(run))
    assert verify(run / "checkpoints" / f"step-{steps:010d}", steps)[0] is None
    return code, search.tail(), steps


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_search_is_saved_by_sigterm_and_by_ctrl_c(tmp_path: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    file = write_search(tmp_path, [0.0, 1.0], [0], steps=100_000)
    code, output, first = interrupt(file, "search", signal.SIGTERM, 5)
    stopped = "stopped as asked: 0 trials have ended, 2 are left; the same command continues\n"
    assert code == 0
    assert stopped in output
    code, output, second = interrupt(file, "search", signal.SIGINT, first + 2)
    assert code == 130
    assert "interrupted: saving after the running step; Ctrl-C again ends at once\n" in output
    assert output.endswith(stopped)
    assert second > first
    log = (tmp_path / "search" / "trials" / "p0000-s0" / "run" / "log.txt").read_text("utf-8")
    assert f"continuing from the checkpoint of step {first}" in log
    for trace in ("Traceback", "***", "SIGTERM", "Stack trace"):
        assert trace not in output


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_study_is_saved_by_sigterm(tmp_path: Path) -> None:
    study = write_study(tmp_path, max_concurrent=1, seeds=[0])
    base = tmp_path / "base.yaml"
    base.write_text(base.read_text("utf-8").replace("steps: 12", "steps: 100000"), "utf-8")
    code, output, _ = interrupt(study, "study", signal.SIGTERM, 5)
    assert code == 0
    assert output.endswith("stopped as asked: 0 trials have ended, 2 are left; the same command continues\n")
    assert not (tmp_path / "study" / "report").exists()
    assert "Stack trace" not in output


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_sigterm_ends_actors(tmp_path: Path) -> None:
    """An evaluation has nothing to save: its cluster ends, and the command reports that it starts again."""
    benchmark = load_benchmark("sample", languages=["en", "fi"])
    make_model(tmp_path / "model", list(benchmark.candidate_texts))
    command = [BIN / "hbt-dist", "evaluate", "--model", tmp_path / "model", "--benchmark", "sample"]
    command += ["--languages", "en,fi"]
    command += ["--output", tmp_path / "out", "--launcher", "ray", "--set", f"cache_dir={tmp_path / 'cache'}"]
    process = start(command, tmp_path, RAY_ADDRESS="local")
    while process.poll() is None and not any(
        "ray::" in " ".join(member.cmdline()) for member in session_of(process.pid)
    ):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code, _, err = finish(process, 60)
    assert code == 143, err
    assert err.endswith("terminated; the same command starts again\n")
    assert "Traceback" not in err
    assert "Stack trace" not in err
    assert left_behind(process.pid) == []
    assert not (tmp_path / "out" / "results.json").exists()
