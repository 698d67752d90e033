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
    as_json: Annotated[bool, typer.Option("--json", help="print step and folder as JSON")] = False,
) -> None:
    """Write a checkpoint's model for transformers and sentence-transformers; the run may still train."""
    from hbt_dist.training.checkpoints.export import export_checkpoint

    step = export_checkpoint(checkpoint, to, as_adapter=adapter, width=width).step
    document = json.dumps({"step": step, "model": str(to)})
    typer.echo(document if as_json else f"model after step {step}: {to}")
