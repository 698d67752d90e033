"""Provide `hbt-dist init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_dist.cli.completion import complete_benchmark


def init(
    to: Annotated[Path, typer.Option(help="run file to write")] = Path("run.yaml"),
    data: Annotated[
        str | None,
        typer.Option(help="training examples: a file or folder of JSON lines, CSV, TSV, Parquet or Arrow"),
    ] = None,
    benchmark: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_benchmark,
            help="folder of questions.jsonl and candidates.jsonl, or a benchmark's name",
        ),
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="language of the texts, where neither fields nor lines name it")
    ] = None,
) -> None:
    """Write a commented run file; --data and --benchmark fill in what their files show."""
    from hbt_dist.jobs.init import init_job

    typer.echo(init_job(to, data=data, benchmark=benchmark, language=language))
