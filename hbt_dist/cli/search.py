"""Provide `hbt-dist search`."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_dist.cli.options import OverrideArgument, QuietOption


def search(
    file: Annotated[
        str, typer.Argument(metavar="SEARCH.yaml", help="search file: base run, space, benchmark")
    ],
    overrides: OverrideArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check the files and print the trials, start nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed trials again")] = False,
    quiet: QuietOption = False,
) -> None:
    """Search over settings of a run with Ray Tune; the same command continues an interrupted search."""
    from hbt_dist.jobs.search import search_job

    folder = search_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)
    if not dry_run:
        typer.echo(str(folder) if quiet else f"search: {folder}\nanalyse it with: hbt-dist report {folder}")
