"""Provide `hbt-dist data inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_dist.cli.options import OverrideArgument, RunArgument


def inspect(
    run: RunArgument,
    overrides: OverrideArgument = None,
    step: Annotated[int | None, typer.Option(min=0, help="also show the rows of this step")] = None,
    rows: Annotated[int, typer.Option(min=1, help="number of rows of the step to show")] = 20,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="show lengths in tokens; tokenises the corpus first")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Show the corpus and the batches that the plan draws from it."""
    from hbt_dist.jobs.inspect import inspect_job
    from hbt_dist.run_file import load_run

    loaded = load_run(run, overrides or [])
    typer.echo(inspect_job(loaded, step=step, rows=rows, tokens=tokens, as_json=as_json))
