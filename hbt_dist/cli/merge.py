"""Provide `hbt-dist merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def merge(
    models: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...",
            help="model folders, folders of runs (their trained model), checkpoints "
            "(RUN/checkpoints/step-...)",
        ),
    ],
    output: Annotated[Path, typer.Option(help="new model folder")],
    weights: Annotated[
        str | None,
        typer.Option(help="shares of the models, such as 0.3,0.7 or 1/3,2/3; default: equal shares"),
    ] = None,
    method: Annotated[
        Literal["average", "slerp"],
        typer.Option(
            help="average: weighted mean of the weights; slerp: spherical interpolation of two models"
        ),
    ] = "average",
) -> None:
    """Merge the weights of models that were trained from the same start model."""
    from hbt_dist.jobs.merge import merge_job

    merge_job(models, weights, output, method)
    typer.echo(f"merged {len(models)} models: {output}")
