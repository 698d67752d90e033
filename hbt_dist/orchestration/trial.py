"""Run one trial: a whole training with Ray Train workers, and the measurement of its checkpoints.

Runs in an actor of Ray Tune. A thread trains; the main thread exports each new checkpoint, evaluates it and
reports to Tune. A stop file ends a trial early: its workers check for it at every step, the trial ends in
order and Ray frees everything at once. Ray leaks workers when it kills the actor of a nested training.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line, read_json_lines, write_json
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.orchestration.interruption import is_interrupted, stop_file
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import Trial, now
from hbt_dist.training.checkpoints.measure import exported_model, measure_model
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.trackers import tracked

_POLL_SECONDS = 0.5
_RECORD_SECONDS = 10.0
_STARTS = 4  # attempts to start the workers: the end of a different trial frees resources

Report = Callable[[dict[str, float]], None]


def run_trial(folder: Path, report: Report) -> None:
    """Train and measure one trial; an interrupted trial continues from its last checkpoint.

    An error goes to `error.txt` and is not raised: one bad point must not end a search. Only the search's
    process marks a trial as failed. When that process is killed, everything in this process fails too, and
    the next start must continue the trial.

    Args:
        folder: of the trial, with its plan.
        report: receives the figures of every measured checkpoint.
    """
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    trial = Trial(folder, plan["point"], plan["seed"], plan["parameters"])
    run = without_measurements(RunFile.model_validate(plan["run"]))
    record = _Record(trial, run.workers.num_workers)
    error_file = folder / "error.txt"
    error_file.unlink(missing_ok=True)
    stop_file(folder).unlink(missing_ok=True)
    try:
        with record.clock():
            finished = _TrialRun(trial, run, plan, record, report).train_and_measure()
    except Exception as error:
        reason = " ".join(str(error).split())[:2000] or type(error).__name__
        error_file.write_text(f"{reason}\n\n{''.join(traceback.format_exception(error))}", "utf-8")
    else:
        if not is_interrupted(folder):
            record.end("finished" if finished else "stopped")


def without_measurements(run: RunFile) -> RunFile:
    """Return the run without the processes that watch a training: the search does their work."""
    training = run.training.model_copy(update={"keep_best": None, "storage": None})
    evaluation = run.evaluation.model_copy(update={"checkpoint_benchmarks": ()})
    return run.model_copy(update={"training": training, "evaluation": evaluation})


class _Record:
    """Write `trial.json` and `history.jsonl` of a trial, with times summed over its starts.

    `seconds` are those of the trial, `training_seconds` those in which it had workers: `worker_seconds` leave
    out evaluations after the training.
    """

    def __init__(self, trial: Trial, num_workers: int) -> None:
        before = trial.record() or {}
        self._folder, self._num_workers = trial.folder, num_workers
        self._began = time.monotonic() - float(before.get("seconds", 0.0))
        self._trained = float(before.get("training_seconds", before.get("seconds", 0.0)))
        self._training_began: float | None = None
        self._facts: dict[str, Any] = {
            "trial": trial.name,
            "point": trial.point,
            "seed": trial.seed,
            "parameters": trial.parameters,
            "status": "running",
            "started": before.get("started") or now(),
            "ended": None,
            "error": None,
            "steps": int(before.get("steps", 0)),
            "workers": num_workers,
        }
        self._write()

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Write the time while the block runs, so that a killed start counts too."""
        stop = threading.Event()

        def write_times() -> None:
            while not stop.wait(_RECORD_SECONDS):
                self._write()

        thread = threading.Thread(target=write_times, name="clock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            rows = read_json_lines(RunFolder(self._folder / "run").metrics)
            self._facts["steps"] = max((int(row["step"]) for row in rows), default=self._facts["steps"])
            self._write()

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count the time while the block runs as training."""
        self._training_began = time.monotonic()
        try:
            yield
        finally:
            self._trained, self._training_began = self._training_seconds(), None

    def measured(self, step: int, figures: dict[str, Any]) -> None:
        self._facts["steps"] = step
        append_line(self._folder / "history.jsonl", {"step": step, **self._times(), **figures})
        self._write()

    def end(self, status: str) -> None:
        self._facts |= {"status": status, "ended": now()}
        self._write()

    def _times(self) -> dict[str, float]:
        training = self._training_seconds()
        return {
            "seconds": round(time.monotonic() - self._began, 1),
            "training_seconds": round(training, 1),
            "worker_seconds": round(training * self._num_workers, 1),
        }

    def _training_seconds(self) -> float:
        began = self._training_began
        return self._trained + (0.0 if began is None else time.monotonic() - began)

    def _write(self) -> None:
        write_json(self._folder / "trial.json", {**self._facts, **self._times()})


@dataclass
class _TrialRun:
    """Train a run in a thread and measure its checkpoints in this one."""

    trial: Trial
    run: RunFile
    plan: dict[str, Any]
    record: _Record
    report: Report
    measured: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.measured = {line["step"] for line in self.trial.history()}
        self.folder = RunFolder(self.run.output_dir)
        block = self.plan["benchmark"]
        self.benchmark = None if block is None else BenchmarkSettings.model_validate(block)

    def train_and_measure(self) -> bool:
        """Return whether the training reached its last step; an interrupted trial measures nothing."""
        # transformers replaces its entry of `sys.modules` during its import: a thread that waits for the
        # import of a different thread gets the first, empty module. So it is imported before the thread.
        importlib.import_module("transformers")
        from hbt_dist.training.ranks import run_in_thread

        last = self.run.training.steps
        if not self.folder.model.is_dir():
            training = run_in_thread(self._train, "training")
            while not training.done():
                wait([training], _POLL_SECONDS)
                step = self._newest_step()
                due = self.plan["every_checkpoint"] and 0 < step < last and step not in self.measured
                if due and not is_interrupted(self.trial.folder):
                    self._measure_checkpoint(step)
            training.result()
        if is_interrupted(self.trial.folder):
            return False
        finished = self.folder.model.is_dir()
        step = last if finished else self._newest_step()
        if finished and step not in self.measured:
            self._measure(self.folder.model, step)
        elif step > 0 and step not in self.measured:
            self._measure_checkpoint(step)
        for block in self.plan["final_benchmarks"] if finished else ():
            benchmark = BenchmarkSettings.model_validate(block)
            out = self.trial.folder / "evaluation" / "final" / benchmark.label
            if not (out / "results.json").is_file():
                measure_model(self.run, self.folder.model, benchmark, out, trial_scoring(self.run))
        if self.benchmark is None:
            self.report({"step": float(step)})
        return finished

    def _train(self) -> None:
        with self.record.training(), tracked(self.run, self.folder):
            train_with_retries(self.run, stop_file(self.trial.folder))

    def _newest_step(self) -> int:
        return max(self.folder.checkpoint_steps(), default=0)

    def _measure_checkpoint(self, step: int) -> None:
        if self.benchmark is None:
            return
        self.measured.add(step)
        with ExitStack() as stack:
            try:
                model = stack.enter_context(exported_model(self.folder.checkpoint(step)))
            except (OSError, UserError):
                if self._newest_step() == step:
                    raise
                return  # training has removed it meanwhile: the next checkpoint is measured
            self._measure(model, step)

    def _measure(self, model: Path, step: int) -> None:
        if self.benchmark is None:
            return
        out = self.trial.folder / "evaluation" / f"step-{step}" / self.benchmark.label
        objectives = measure_model(self.run, model, self.benchmark, out, trial_scoring(self.run))
        losses = {line["step"]: float(line["loss"]) for line in read_json_lines(self.folder.metrics)}
        figures = {"loss": losses.get(step), **objectives}
        self.record.measured(step, {**figures, "evaluation": str(out.relative_to(self.trial.folder))})
        self.report({"step": float(step), **objectives})


def train_with_retries(run: RunFile, stop_file: Path) -> None:
    """Train with Ray workers, and try again while the cluster has no resources for them.

    Raises:
        WorkersNotStartedError: the workers have not started in several attempts.
    """
    from hbt_dist.orchestration import train

    for attempt in range(1, _STARTS + 1):
        try:
            train.train_on_ray(run, quiet=True, stop_file=stop_file)
            return
        except train.WorkersNotStartedError:
            if attempt == _STARTS:
                raise
            print(f"{run.name}: waiting for resources for its workers", file=sys.stderr)


def trial_scoring(run: RunFile) -> EvaluationSettings:
    """Return the run's scoring on the GPU that the trial has reserved, otherwise on the CPU.

    Ray hides no GPU from a trial's process, and all trials of a node would use the first GPU, which a
    training has reserved. A device that the run names is used as it is.
    """
    import ray

    scoring = run.evaluation.scoring
    if scoring.device != "auto" or ray.get_gpu_ids():
        return scoring
    return scoring.model_copy(update={"device": "cpu"})
