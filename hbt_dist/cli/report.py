"""Provide `hbt-dist report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_dist.cli.options import QuietOption, comma_list


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="folder of an evaluation, a search or a study; searches and studies may still run",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="folder to write to; default: FOLDER of an evaluation, FOLDER/report otherwise"),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(help="evaluation: an older evaluation on the same benchmark"),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="TRIAL,TRIAL", help="search: two trials whose language pairs are compared"),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY.yaml",
            help="study: file with question, notes, references and primary contrasts for the report; "
            "default: the file that started the study",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="search: print the findings as JSON")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write an offline page about an evaluation, a search (trade-off, best run, cost) or a study."""
    from hbt_dist.jobs.report import report_job

    trials = None if compare is None else comma_list(compare)
    text = report_job(
        folder, output, baseline=baseline, trials=trials, study=study, as_json=as_json, quiet=quiet
    )
    if text:
        typer.echo(text)
