"""Provide `hbt-dist doctor`."""

from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="run file whose workers, folders and engine are checked")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Check that this machine and its Ray cluster are ready to train; exit code 1 if there is a problem."""
    from hbt_dist.doctor.report import examine, report
    from hbt_dist.run_file import load_run

    if report(examine(load_run(run) if run else None), as_json=as_json, say=typer.echo):
        raise typer.Exit(1)
