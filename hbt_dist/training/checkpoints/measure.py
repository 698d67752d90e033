"""Checkpoints measured while training goes on.

A checkpoint is exported and evaluated in a process of its own (a Ray task, or below the process of rank 0),
on a CPU unless Ray is told to reserve a GPU: training waits for nothing. Figures go to ``validation.jsonl``
and TensorBoard, the pair matrices to ``evaluation/step-N/``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.retention import validation_lines
from hbt_dist.training.checkpoints.watcher import CheckpointWatcher
from hbt_dist.training.run_folder import RunFolder

OBJECTIVES = ("monolingual", "crosslingual", "multilingual", "rank_distance")
_MOST_WAITING = 4
_OF_A_RANK = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_PROCID",
)

#: Measures a held checkpoint (its folder, step) and gives one entry of figures per benchmark.
Measure = Callable[[Path, int], list[dict[str, Any]]]


def measure_checkpoint(run: RunFile, held: Path, step: int) -> list[dict[str, Any]]:
    """Export a checkpoint and evaluate it on the run's checkpoint benchmarks.

    Args:
        held: folder of the checkpoint, two levels below the run's folder.

    Returns:
        for each benchmark: step, benchmark, monolingual, crosslingual, multilingual (mAP), rank_distance,
        seconds, evaluation (where the matrices lie).

    Raises:
        UserError: the checkpoint or a benchmark cannot be used.
    """
    from hbt_dist.evaluation.run import score_model
    from hbt_dist.methods.language_removal import build_removal
    from hbt_dist.training.checkpoints.export import export_checkpoint

    folder = RunFolder(run.output_dir)
    place = Path(tempfile.mkdtemp(prefix="hbt-checkpoint-"))
    try:
        export_checkpoint(held, place / "model")
        found = []
        for benchmark in run.evaluation.checkpoint_benchmarks:
            began = time.monotonic()
            out = folder.evaluation / f"step-{step}" / benchmark.label
            score_model(
                place / "model",
                benchmark,
                out,
                text=run.model.text,
                scoring=run.evaluation.scoring,
                trust_remote_code=run.model.trust_remote_code,
                build_transform=build_removal,
            )
            found.append(
                {
                    "step": step,
                    "benchmark": benchmark.label,
                    **objectives_of(out),
                    "seconds": round(time.monotonic() - began, 1),
                    "evaluation": str(out.relative_to(folder.root)),
                }
            )
        return found
    finally:
        shutil.rmtree(place, ignore_errors=True)


def objectives_of(folder: Path) -> dict[str, float]:
    """mAP and rank distance of an evaluation folder, those that its benchmark has."""
    from hbt_dist.evaluation.read_results import headline_figures, read_results

    figures = headline_figures(read_results(folder))
    return {name: value for name, value in figures.items() if value is not None}


def validation_watcher(
    run: RunFile, folder: RunFolder, measure: Measure, say: Callable[[str], None]
) -> CheckpointWatcher:
    """Return a watcher that measures every checkpoint and records the figures."""

    def record(lines: list[dict[str, Any]]) -> None:
        for line in lines:
            append_line(folder.validation, line)

    def handle(held: Path, step: int) -> None:
        try:
            lines = measure(held, step)
        except Exception:
            record([{"step": step, "benchmark": "", "failed": True}])  # `keep_best` waits for it no more
            raise
        record(lines)
        for line in lines:
            figures = (f"{name} {line[name]:.4g}" for name in OBJECTIVES if name in line)
            say(f"step {step} on {line['benchmark']}: {', '.join(figures)}")
        if run.training.tensorboard:
            _to_tensorboard(folder, lines)

    return CheckpointWatcher(
        folder,
        "validation",
        handle,
        say=say,
        done={line["step"] for line in validation_lines(folder) if "failed" not in line},
        most_waiting=_MOST_WAITING,
        skip=lambda step: record([{"step": step, "benchmark": "", "left_out": True}]),
    )


def _to_tensorboard(folder: RunFolder, lines: list[dict[str, Any]]) -> None:
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder.tensorboard / "validation")) as board:
        for line in lines:
            for name in OBJECTIVES:
                if name in line:
                    board.add_scalar(f"{line['benchmark']}/{name}", line[name], line["step"])


def measure_in_a_process(run: RunFile) -> Measure:
    """Measure in a process below this one, on a CPU and with low priority."""

    def measure(held: Path, step: int) -> list[dict[str, Any]]:
        environment = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        environment["CUDA_VISIBLE_DEVICES"] = ""
        done = subprocess.run(
            [sys.executable, "-m", "hbt_dist.training.checkpoints.measure", str(os.getpid())],
            input=json.dumps({"run": run.plain(), "held": str(held), "step": step}),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            process_group=0,  # Ctrl-C is for the training, which ends in order
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise UserError("evaluation", lines[-1])
        return list(json.loads(done.stdout.splitlines()[-1]))

    return measure


def _end_with(parent: int) -> None:
    """End this process soon after its parent, however that one ended; temporary folders go first."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10.0)  # native code may not listen
    os._exit(1)


def _main() -> None:
    threading.Thread(target=_end_with, args=(int(sys.argv[1]),), daemon=True).start()
    os.nice(10)
    asked = json.load(sys.stdin)
    run = RunFile.model_validate(asked["run"])
    try:
        print(json.dumps(measure_checkpoint(run, Path(asked["held"]), asked["step"])))
    except UserError as error:
        sys.exit(" ".join(str(error).split()))  # one line: the last one of stderr is what is told


if __name__ == "__main__":
    _main()
