"""Provide `hbt-dist files`: list or copy the configurations of the package.

In a checkout they are next to the package; in a wheel they are inside it, where no user should edit them.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import explained_write

#: Folder of the package -> its content.
FOLDERS = {
    "run_files": "run files; `hbt-dist train NAME` accepts their names",
    "deepspeed_configs": "DeepSpeed; `deepspeed: {config: NAME}` accepts their names",
    "ray_configs": "clusters, searches, studies; copy and edit them",
}


def files(
    to: Annotated[
        Path | None, typer.Option(help="copy all configurations into this folder for editing")
    ] = None,
) -> None:
    """List the configurations of the package, or copy them."""
    package = Path(str(resources.files("hbt_dist")))
    if to is not None:
        copy_files(package, to)
    for name, content in FOLDERS.items():
        folder = (to or package) / name
        typer.echo(f"{folder}: {content}")
        for path in sorted(folder.rglob("*.*")):
            typer.echo(f"  {path.relative_to(folder)}")


def copy_files(package: Path, to: Path) -> None:
    """Copy the folders of the package into ``to``.

    Raises:
        UserError: a folder exists already, or ``to`` cannot be written.
    """
    if existing := [to / name for name in FOLDERS if (to / name).exists()]:
        raise UserError(str(existing[0]), "exists already", "name a different folder, or move it away")
    with explained_write(to, "name a different folder"):
        for name in FOLDERS:
            shutil.copytree(package / name, to / name)
