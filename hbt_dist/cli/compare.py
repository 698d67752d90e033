"""Provide `hbt-dist compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hbt_dist.cli.options import comma_list
from hbt_dist.common.errors import UserError


def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER[,FOLDER...]...",
            help="folders of evaluations or runs; the seeds of one system joined by commas",
        ),
    ],
    baseline: Annotated[
        str | None,
        typer.Option(help="folder, or folders joined by commas; default: the start model of a run"),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(metavar="LABEL", help="benchmark of runs that evaluate on several")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="folder for comparison.json and its tables")] = None,
    cluster: Annotated[
        Literal["question", "paragraph"],
        typer.Option(help="unit of resampling: question ids, or their paragraphs"),
    ] = "question",
    as_json: Annotated[
        bool, typer.Option("--json", help="print comparison.json instead of the text")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="with --output: print nothing")] = False,
) -> None:
    """Compare evaluations with a baseline: effects, intervals, tests, language distance."""
    from hbt_dist.comparison.compare import compare as compare_folders
    from hbt_dist.comparison.compare import comparison_json, start_evaluations, write_comparison
    from hbt_dist.comparison.text import comparison_text

    if quiet and output is None:
        raise UserError("--quiet", "prints and writes nothing", "name a folder for the tables with --output")
    groups = [list(comma_list(system)) for system in systems]
    old = start_evaluations(groups, benchmark) if baseline is None else comma_list(baseline)
    document = compare_folders(groups, list(old), benchmark=benchmark, cluster=cluster)
    if output is not None:
        write_comparison(document, output)
    if as_json:
        typer.echo(comparison_json(document))
    elif not quiet:
        typer.echo(comparison_text(document))
