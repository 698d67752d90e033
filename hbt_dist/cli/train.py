"""Provide `hbt-dist train`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hbt_dist.cli.options import OverrideArgument, QuietOption, RunArgument
from hbt_dist.common.console import counted, say
from hbt_dist.common.environment import launched_rank

if TYPE_CHECKING:
    from hbt_dist.run_file import RunFile


def train(
    run: RunArgument,
    overrides: OverrideArgument = None,
    launcher: Annotated[
        Literal["ray", "local"],
        typer.Option(
            help="ray: Ray starts the workers; local: this process is a worker (torchrun, deepspeed, Slurm, "
            "or a single process)"
        ),
    ] = "ray",
    as_json: Annotated[
        bool, typer.Option("--json", help="print the outcome as JSON, and progress to stderr")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="print rows, steps, tokens and the memory of each device; start nothing"
        ),
    ] = False,
    gpu_memory: Annotated[
        float,
        typer.Option("--gpu-memory", min=1, help="GiB of a GPU, for --dry-run (default: an A100 or H100)"),
    ] = 79.0,
    quiet: QuietOption = False,
) -> None:
    """Train a run; the same command continues an interrupted one.

    Ctrl-C saves after the running step and ends; a second Ctrl-C ends at once.
    """
    from hbt_dist.run_file import load_run

    loaded = load_run(run, overrides or [])
    if dry_run:
        from hbt_dist.jobs.dry_run import describe_training

        typer.echo(describe_training(loaded, gpu_memory * 2**30))
        return
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        if not quiet and launched_rank(launcher) == 0:
            say(_what_starts(loaded, launcher))  # before the imports, which take seconds
    from hbt_dist.jobs.train import train_job
    from hbt_dist.training.metrics_log import outcome

    rank = launched_rank(launcher)
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext():
            folder = train_job(loaded, launcher, quiet=quiet)
    except KeyboardInterrupt:
        if rank == 0:
            raise
        raise typer.Exit(130) from None  # one process of the group reports it
    if rank != 0:
        return
    trained = outcome(folder, loaded.training.steps)
    if as_json:
        from hbt_dist.jobs.evaluate_run import evaluated_pairs

        typer.echo(json.dumps({**asdict(trained), "pairs": evaluated_pairs(loaded)}))
    elif trained.finished:
        typer.echo(str(trained))


def _what_starts(run: RunFile, launcher: str) -> str:
    """Return what starts, and how long a small model takes on two idle cores."""
    measured = bool(run.evaluation.benchmarks) and "start" in run.evaluation.when
    after = ", after an evaluation of the start model" if measured else ""
    if launcher == "local":
        return f"{run.name}: training in this process; a small model makes its first step in about 7 s{after}"
    workers = counted(run.workers.num_workers, "Ray worker")
    return f"{run.name}: training with {workers}; a small model makes its first step in about 20 s{after}"
