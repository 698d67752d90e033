"""`hbt-dist files`: the configurations that come with the package, where an installed package has them too.

In a checkout they lie beside the package; in a wheel they are inside it, in a folder that nobody should edit.
"""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from hbt_dist.common.errors import UserError

#: Folders of the package, and what lies in them.
FOLDERS = {
    "run_files": "run files; `hbt-dist train NAME` finds them by name",
    "deepspeed_configs": "DeepSpeed; `deepspeed: {config: NAME}` finds them by name",
    "ray_configs": "clusters, searches, studies; copy and edit them",
}


def files(
    to: Annotated[Path | None, typer.Option(help="copy all of them into this folder, to edit them")] = None,
) -> None:
    """List the configurations that come with the package, or copy them."""
    if to is not None:
        copy_files(to)
    for folder, what in FOLDERS.items():
        place = (to or package_folder()) / folder
        typer.echo(f"{place}: {what}")
        for path in sorted(place.rglob("*.*")):
            typer.echo(f"  {path.relative_to(place)}")


def package_folder() -> Path:
    """The folder of the package itself."""
    return Path(str(resources.files("hbt_dist")))


def copy_files(to: Path) -> None:
    """Copy the folders into ``to``.

    Raises:
        UserError: one of them is there already, or the folder cannot be written.
    """
    there = [folder for folder in FOLDERS if (to / folder).exists()]
    if there:
        raise UserError(str(to / there[0]), "is there already", "name another folder, or move it away")
    try:
        for folder in FOLDERS:
            shutil.copytree(package_folder() / folder, to / folder)
    except OSError as error:
        raise UserError(str(to), f"cannot be written: {error.strerror}", "name another folder") from error
