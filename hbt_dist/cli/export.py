"""Provide `hbt-dist export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="folder of a checkpoint, or of a run: its newest complete checkpoint"
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="new model folder")],
    adapter: Annotated[
        bool,
        typer.Option(
            "--adapter",
            help="of a run with model.lora: write the adapters instead of merging them",
        ),
    ] = False,
    width: Annotated[
        int | None,
        typer.Option(
            min=1, help="keep the first values of each embedding, this many; default: as in the run"
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(metavar="ORGANISATION/NAME", help="also push the folder to the model hub"),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="with --push: a new repository is private")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="with --push: branch of the repository; default: main")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print step and folder as JSON")] = False,
) -> None:
    """Write a checkpoint's model for transformers and sentence-transformers; the run may still train."""
    from hbt_dist.jobs.export import export_job

    exported = export_job(
        checkpoint, to, as_adapter=adapter, width=width, push=push, private=private, revision=revision
    )
    if as_json:
        typer.echo(json.dumps(exported))
        return
    typer.echo(f"model after step {exported['step']}: {to}")
    if push is not None:
        typer.echo(f"pushed: {exported['pushed']}")
