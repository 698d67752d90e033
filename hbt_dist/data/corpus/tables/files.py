"""Find the files of a table: a file, or a folder with all its sub-folders.

A sub-folder `lang=en` gives all rows below it a column `lang` (hive). Names that begin with `.` or `_` are
marks of macOS and Spark, not data. Files that are left out are counted, and named in the reader's notes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import unreadable
from hbt_dist.data.tables import ROWS, Row

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class TableFile:
    """A file, and the columns that its folders' names give to each of its rows."""

    path: Path
    partition: tuple[tuple[str, str | None], ...] = ()


def table_files(path: Path, endings: Sequence[str], source: str) -> tuple[list[TableFile], list[str]]:
    """Return the files with one of the endings, and the names of those left out.

    Files come in the order of their names, folder by folder. A file that is named itself may end in any way.

    Raises:
        UserError: the path does not exist, or no file has one of the endings.
    """
    if not path.exists():
        raise UserError(str(path), "there is no such file", f"check the path of source {source}")
    if not path.is_dir():
        return [TableFile(path)], []
    try:
        below = sorted(_files_below(path, frozenset()), key=lambda file: file.relative_to(path).parts)
    except OSError as error:
        raise unreadable(Path(error.filename or path), error) from None
    files, left_out = [], []
    for file in below:
        parts = file.relative_to(path).parts
        if file.name.endswith(tuple(endings)) and not any(map(_is_hidden, parts)):
            files.append(TableFile(file, _partition(parts[:-1])))
        else:
            left_out.append("/".join(parts))
    if not files:
        held = f"; it holds {', '.join(left_out[:5])}" if left_out else ""
        raise UserError(str(path), f"holds no {endings[0]} file", f"name the file itself{held}")
    return files, left_out


def _files_below(folder: Path, above: frozenset[Path]) -> Iterator[Path]:
    """Yield all files below a folder; links are followed, a link to a folder above is not."""
    real = folder.resolve()
    if real in above:
        return
    for entry in os.scandir(folder):
        if entry.is_dir():
            yield from _files_below(folder / entry.name, above | {real})
        else:
            yield folder / entry.name


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _partition(folders: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    pairs = (folder.partition("=") for folder in folders if "=" in folder)
    return tuple(
        (unquote(key), None if value == _HIVE_NULL else unquote(value)) for key, _, value in pairs if key
    )


def file_rows(format_name: str, file: TableFile) -> Iterator[Row]:
    """Yield (location, row) of a file; the columns of its folders' names are part of each row.

    Raises:
        UserError: the file cannot be read, or has a column that a folder's name gives too.
    """
    rows = ROWS[format_name](file.path)
    if not file.partition:
        yield from rows
        return
    partition = dict(file.partition)
    for location, row in rows:
        if twice := sorted(partition.keys() & row.keys()):
            raise UserError(
                location, f"column {twice[0]!r} is in the file and in its folder's name", "rename the folder"
            )
        yield location, row | partition
