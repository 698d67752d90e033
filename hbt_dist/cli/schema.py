"""Provide `hbt-dist schema`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer


def schema(
    file: Annotated[Literal["run", "mine", "search", "study"], typer.Argument(help="kind of file")] = "run",
) -> None:
    """Print the JSON schema of the run file, or of the file of mine, search or study."""
    from hbt_dist.config.settings import Settings
    from hbt_dist.jobs.mine_file import MineFile
    from hbt_dist.run_file import RunFile
    from hbt_dist.search.settings import SearchFile
    from hbt_dist.study.settings import StudyFile

    kinds: dict[str, type[Settings]] = {
        "run": RunFile,
        "mine": MineFile,
        "search": SearchFile,
        "study": StudyFile,
    }
    typer.echo(json.dumps(kinds[file].model_json_schema(), indent=2))
