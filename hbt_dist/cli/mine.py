"""Provide `hbt-dist mine`."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from typing import Annotated, Literal

import typer

from hbt_dist.cli.options import OverrideArgument, QuietOption


def mine(
    file: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_MINE",
            help="run file with a block mining, or a smaller file: output_dir, data, model, mining, workers",
        ),
    ],
    overrides: OverrideArgument = None,
    launcher: Annotated[
        Literal["ray", "local"],
        typer.Option(help="ray: workers.num_workers actors encode and search; local: this process"),
    ] = "ray",
    as_json: Annotated[
        bool, typer.Option("--json", help="print the counts as JSON, and progress to stderr")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print texts, blocks, disk and memory; start nothing")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Mine hard negatives for every question with a model; the same command continues an interrupted run."""
    from hbt_dist.jobs.mine import mine_job
    from hbt_dist.jobs.mine_file import load_mine_file
    from hbt_dist.mining.summary import summary

    loaded = load_mine_file(file, overrides or [])
    if dry_run:
        from hbt_dist.jobs.mine_size import describe_mining

        typer.echo(describe_mining(loaded))
        return
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        written = mine_job(loaded, launcher, quiet=quiet or as_json)
    typer.echo(json.dumps(written) if as_json else summary(written))
