"""Provide `hbt-dist study`."""

from __future__ import annotations

from typing import Annotated

import typer

from hbt_dist.cli.options import OverrideArgument, QuietOption


def study(
    file: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="study file: methods, seeds, benchmarks")],
    overrides: OverrideArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check the files and print the cost, start nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed trainings again")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare training methods over seeds and benchmarks, with a report; the same command continues."""
    from hbt_dist.jobs.study import study_job

    study_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)
