"""Run one trial: a training with separate Ray Train workers, and the evaluation of its checkpoints.

Runs in an actor of Ray Tune. Training runs in a second thread; this one exports each new checkpoint,
evaluates it and reports to Tune. To stop a trial early, the thread writes a file that its workers look for at
every step. The trial then ends and Ray frees everything at once; killing the actor of a nested training would
leak workers.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line, write_json
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.run_file import BenchmarkSettings, RunFile
from hbt_dist.search.folder import Trial, now
from hbt_dist.training.checkpoints.measure import exported_model, measure_model
from hbt_dist.training.run_folder import RunFolder

_POLL_SECONDS = 0.5
_STARTS = 4  # of a trial whose workers find no room: another trial's end makes some

Report = Callable[[dict[str, float]], None]


def run_trial(folder: Path, report: Report) -> None:
    """Train and measure one trial; an interrupted trial continues from its last checkpoint.

    The folder records an error instead of raising it, because one bad point must not end a search. Only
    the search's process marks a trial as failed (`error.txt` has the reason). If that process is killed,
    this actor fails too, and the trial continues at the next start.

    Args:
        folder: of the trial, with its plan.
        report: hears of every measured checkpoint.
    """
    plan = json.loads((folder / "plan.json").read_text("utf-8"))
    trial = Trial(folder, plan["point"], plan["seed"], plan["parameters"])
    run = _by_itself(RunFile.model_validate(plan["run"]))
    record = _Record(trial, run)
    problem = folder / "error.txt"
    problem.unlink(missing_ok=True)
    try:
        with record.clock():
            finished = _train_and_measure(trial, run, plan, record, report)
    except Exception as error:
        lines = "".join(traceback.format_exception(error))
        problem.write_text(
            f"{' '.join(str(error).split())[:2000] or type(error).__name__}\n\n{lines}", "utf-8"
        )
    else:
        record.end("finished" if finished else "stopped")


def _by_itself(run: RunFile) -> RunFile:
    """The run without what watches a training from outside: the search does that."""
    training = run.training.model_copy(update={"keep_best": None, "storage": None})
    evaluation = run.evaluation.model_copy(update={"checkpoint_benchmarks": ()})
    return run.model_copy(update={"training": training, "evaluation": evaluation})


class _Record:
    """`trial.json` and `history.jsonl` of a trial, times summed over its starts."""

    def __init__(self, trial: Trial, run: RunFile) -> None:
        before = trial.record() or {}
        self._trial, self._workers = trial, run.workers.num_workers
        self._seconds = float(before.get("seconds", 0.0))
        self._began = time.monotonic()
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
            "workers": self._workers,
        }
        self._write()

    def clock(self) -> _Clock:
        """Writes the time spent now and then, so that a killed start counts too."""
        return _Clock(self._write)

    @property
    def seconds(self) -> float:
        return self._seconds + time.monotonic() - self._began

    def measured(self, step: int, figures: dict[str, Any]) -> None:
        self._facts["steps"] = step
        seconds = round(self.seconds, 1)
        times = {"seconds": seconds, "worker_seconds": round(seconds * self._workers, 1)}
        append_line(self._trial.folder / "history.jsonl", {"step": step, **times, **figures})
        self._write()

    def end(self, status: str) -> None:
        self._facts |= {"status": status, "ended": now()}
        self._write()

    def _write(self) -> None:
        seconds = round(self.seconds, 1)
        times = {"seconds": seconds, "worker_seconds": round(seconds * self._workers, 1)}
        write_json(self._trial.folder / "trial.json", {**self._facts, **times})


class _Clock:
    def __init__(self, write: Callable[[], None], every: float = 10) -> None:
        self._write, self._every, self._stop = write, every, threading.Event()
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._write()


def _train_and_measure(
    trial: Trial, run: RunFile, plan: dict[str, Any], record: _Record, report: Report
) -> bool:
    """Whether the training reached its last step."""
    folder = RunFolder(run.output_dir)
    stop_file = trial.folder / "stop"
    benchmark = plan["benchmark"] and BenchmarkSettings.model_validate(plan["benchmark"])
    measured = {line["step"] for line in trial.history()}
    _import_for_both_threads()
    training = _Training(run, stop_file)
    if not folder.model.is_dir():
        training.start()
    while training.is_alive():
        training.join(_POLL_SECONDS)
        if benchmark is not None and plan["every_checkpoint"]:
            step = _newest_step(folder)
            if step is not None and step not in measured and step < run.training.steps:
                _measure_checkpoint(trial, run, folder, step, benchmark, record, report, measured)
    training.raise_problem()
    finished = folder.model.is_dir()
    step = run.training.steps if finished else (_newest_step(folder) or 0)
    if benchmark is not None and step not in measured and step > 0:
        if finished:
            _measure(trial, run, folder.model, step, benchmark, record, report)
        else:
            _measure_checkpoint(trial, run, folder, step, benchmark, record, report, measured)
    if finished:
        for block in plan["final_benchmarks"]:
            final = BenchmarkSettings.model_validate(block)
            out = trial.folder / "evaluation" / "final" / final.label
            if not (out / "results.json").is_file():
                measure_model(run, folder.model, final, out, trial_scoring(run))
    if benchmark is None:
        report({"step": float(step)})
    return finished


def _import_for_both_threads() -> None:
    """Import what both threads need before there are two.

    transformers swaps its entry of `sys.modules` while it is imported: a thread that waits for the other's
    import gets the first, empty module ("module 'transformers' has no attribute 'AutoTokenizer'").
    """
    importlib.import_module("transformers")


class _Training(threading.Thread):
    def __init__(self, run: RunFile, stop_file: Path) -> None:
        super().__init__(name="training", daemon=True)
        self._run, self._stop_file = run, stop_file
        self._problem: BaseException | None = None

    def run(self) -> None:
        from hbt_dist.orchestration.train import WorkersNotStartedError, train_on_ray

        for left in reversed(range(_STARTS)):
            try:
                train_on_ray(self._run, quiet=True, stop_file=self._stop_file)
            except WorkersNotStartedError as error:
                self._problem = error
                if left:
                    print(f"{self._run.name}: no room for its workers yet, it waits", file=sys.stderr)
            except BaseException as error:  # handed to the other thread
                self._problem = error
                return
            else:
                self._problem = None
                return

    def raise_problem(self) -> None:
        if self._problem is not None:
            raise self._problem


def _newest_step(folder: RunFolder) -> int | None:
    return max(folder.checkpoint_steps(), default=None)


def _measure_checkpoint(
    trial: Trial,
    run: RunFile,
    folder: RunFolder,
    step: int,
    benchmark: BenchmarkSettings,
    record: _Record,
    report: Report,
    measured: set[int],
) -> None:
    measured.add(step)
    with ExitStack() as stack:
        try:
            model = stack.enter_context(exported_model(folder.checkpoint(step)))
        except (OSError, UserError):
            if _newest_step(folder) == step:
                raise
            return  # training has removed it meanwhile: the next checkpoint is measured
        _measure(trial, run, model, step, benchmark, record, report)


def _measure(
    trial: Trial,
    run: RunFile,
    model: Path,
    step: int,
    benchmark: BenchmarkSettings,
    record: _Record,
    report: Report,
) -> None:
    out = trial.folder / "evaluation" / f"step-{step}" / benchmark.label
    objectives = measure_model(run, model, benchmark, out, trial_scoring(run))
    figures = {"loss": _loss_at(RunFolder(run.output_dir), step), **objectives}
    record.measured(step, {**figures, "evaluation": str(out.relative_to(trial.folder))})
    report({"step": float(step), **objectives})


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


def _loss_at(folder: RunFolder, step: int) -> float | None:
    loss = None
    with folder.metrics.open(encoding="utf-8") as lines:
        for line in lines:
            try:
                figures = json.loads(line)
            except ValueError:
                break
            if figures.get("step") == step:
                loss = float(figures["loss"])
    return loss
