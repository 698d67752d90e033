"""Measure checkpoints while training goes on.

A separate process (a Ray task, or a child of rank 0) exports and scores a checkpoint, on a CPU unless Ray
reserves a GPU: training does not wait. Figures go to ``validation.jsonl`` and TensorBoard, the pair matrices
to ``evaluation/step-N/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.retention import validation_lines
from hbt_dist.training.checkpoints.watcher import CheckpointWatcher
from hbt_dist.training.run_folder import RunFolder

OBJECTIVES = ("monolingual", "crosslingual", "multilingual", "rank_distance")
_MOST_WAITING = 4
_RANK_VARIABLES = {
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_PROCID",
}

#: Measures a held checkpoint (its folder, step) and returns one entry of figures per benchmark.
Measure = Callable[[Path, int], list[dict[str, Any]]]


def measure_checkpoint(run: RunFile, held: Path, step: int) -> list[dict[str, Any]]:
    """Export a checkpoint and score it on the run's checkpoint benchmarks.

    Args:
        run: the run.
        held: folder of the checkpoint, two levels below the run's folder.
        step: its step.

    Returns:
        for each benchmark: step, benchmark, monolingual, crosslingual, multilingual (mAP), rank_distance,
        seconds, evaluation (folder with the matrices).

    Raises:
        UserError: the checkpoint or a benchmark cannot be used.
    """
    folder = RunFolder(run.output_dir)
    lines = []
    with exported_model(held) as model:
        for benchmark in run.evaluation.checkpoint_benchmarks:
            began = time.monotonic()
            out = folder.evaluation / f"step-{step}" / benchmark.label
            line = {"step": step, "benchmark": benchmark.label, **measure_model(run, model, benchmark, out)}
            seconds = round(time.monotonic() - began, 1)
            lines.append({**line, "seconds": seconds, "evaluation": str(out.relative_to(folder.root))})
    return lines


@contextlib.contextmanager
def exported_model(checkpoint: Path) -> Iterator[Path]:
    """Export a checkpoint to a temporary model folder that lasts as long as the block."""
    from hbt_dist.training.checkpoints.export import export_checkpoint

    with tempfile.TemporaryDirectory(prefix="hbt-checkpoint-", ignore_cleanup_errors=True) as temporary:
        export_checkpoint(checkpoint, Path(temporary) / "model")
        yield Path(temporary) / "model"


def measure_model(
    run: RunFile,
    model: Path,
    benchmark: BenchmarkSettings,
    out: Path,
    scoring: EvaluationSettings | None = None,
) -> dict[str, float]:
    """Score a model of a run on a benchmark and return its objectives, see `objectives_of`.

    Args:
        run: gives the text settings.
        model: folder of the model.
        benchmark: what to measure on.
        out: folder for the evaluation.
        scoring: default: the run's.
    """
    from hbt_dist.evaluation.run import score_model
    from hbt_dist.methods.language_removal import build_removal

    score_model(
        model,
        benchmark,
        out,
        **run.evaluated_text(),
        scoring=scoring or run.evaluation.scoring,
        trust_remote_code=run.model.trust_remote_code,
        build_transform=build_removal,
    )
    return objectives_of(out)


def objectives_of(folder: Path) -> dict[str, float]:
    """Return the mAPs and the rank distance of an evaluation folder that its benchmark has."""
    from hbt_dist.evaluation.read_results import headline_figures, read_results

    figures = headline_figures(read_results(folder))
    return {name: value for name, value in figures.items() if value is not None}


def validation_watcher(
    run: RunFile, folder: RunFolder, measure: Measure, say: Callable[[str], None]
) -> CheckpointWatcher:
    """Return a watcher that measures every checkpoint and records the figures."""

    def record(line: dict[str, Any]) -> None:
        append_line(folder.validation, line)

    def handle(held: Path, step: int) -> None:
        try:
            lines = measure(held, step)
        except Exception:
            record({"step": step, "benchmark": "", "failed": True})  # `keep_best` stops waiting for it
            raise
        for line in lines:
            record(line)
            figures = (f"{name} {line[name]:.4g}" for name in OBJECTIVES if name in line)
            say(f"step {step} on {line['benchmark']}: {', '.join(figures)}")

    return CheckpointWatcher(
        folder,
        "validation",
        handle,
        say=say,
        done={line["step"] for line in validation_lines(folder) if "failed" not in line},
        most_waiting=_MOST_WAITING,
        skip=lambda step: record({"step": step, "benchmark": "", "left_out": True}),
    )


def measure_in_a_process(run: RunFile) -> Measure:
    """Return a function that measures in a child process, on a CPU and with low priority."""

    def measure(held: Path, step: int) -> list[dict[str, Any]]:
        environment = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
        child = subprocess.run(
            [sys.executable, "-m", "hbt_dist.training.checkpoints.measure", str(os.getpid())],
            input=json.dumps({"run": run.plain(), "held": str(held), "step": step}),
            env={**environment, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            check=False,
            process_group=0,  # Ctrl-C goes to the training, which ends in order
        )
        if child.returncode != 0:
            lines = child.stderr.strip().splitlines() or [f"exit code {child.returncode}"]
            raise UserError("evaluation", lines[-1])
        return list(json.loads(child.stdout.splitlines()[-1]))

    return measure


def end_with(parent: int) -> None:
    """End this process soon after its parent has ended, and remove temporary folders first."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10.0)  # native code can ignore the signal
    os._exit(1)


def _main() -> None:
    threading.Thread(target=end_with, args=(int(sys.argv[1]),), daemon=True).start()
    os.nice(10)
    request = json.load(sys.stdin)
    run = RunFile.model_validate(request["run"])
    try:
        print(json.dumps(measure_checkpoint(run, Path(request["held"]), request["step"])))
    except UserError as error:
        sys.exit(" ".join(str(error).split()))  # the parent reports the last line of stderr


if __name__ == "__main__":
    _main()
