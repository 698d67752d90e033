"""Copy the files of an address (s3://, gs://) into the cache, once per version of a file.

A copy keeps the size and modification time of its file; if both are equal, the file is not fetched again.
Costs the disk space of the files until the cache is deleted.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock
from pyarrow import fs

from hbt_dist.common.addresses import open_address
from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError, first_line


def local_copy(address: str, cache_dir: Path, source: str) -> Path:
    """Return the file or folder in `cache_dir` with the content of an address.

    Args:
        source: name of the source, for messages.

    Raises:
        UserError: the storage cannot be used, or holds no file there.
    """
    shown = address.partition("?")[0]
    location = f"source {source}, {shown}"
    try:
        file_system, root = open_address(address)
        files = _files(file_system, root)
        if not files:
            raise UserError(location, "holds no file", "check the address")
        scheme = shown.partition("://")[0]
        target = cache_dir / "sources" / scheme / root.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(cache_dir / "sources.lock"),
            Progress(len(files), f"fetching {source}", "file") as progress,
        ):
            _remove_others(target, {_local(target, root, info.path) for info in files})
            for info in files:
                _fetch(file_system, info, _local(target, root, info.path))
                progress.update()
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are subclasses of these
        remedy = "check the address, your credentials and the network"
        raise UserError(location, f"cannot be read: {first_line(error)}", remedy) from error
    return target


def _files(file_system: fs.FileSystem, root: str) -> list[fs.FileInfo]:
    info = file_system.get_file_info(root)
    if info.type == fs.FileType.File:
        return [info]
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    return [info for info in file_system.get_file_info(selector) if info.type == fs.FileType.File]


def _local(target: Path, root: str, path: str) -> Path:
    parts = [part for part in path.removeprefix(root).split("/") if part]
    if ".." in parts:
        raise ValueError(f"a name holds '..': {path}")
    return target.joinpath(*parts)


def _remove_others(target: Path, kept: set[Path]) -> None:
    """Remove copies of files that the address no longer has."""
    for path in target.rglob("*") if target.is_dir() else ():
        if path.is_file() and path not in kept:
            path.unlink()


def _fetch(file_system: fs.FileSystem, info: fs.FileInfo, path: Path) -> None:
    if path.is_file():
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (info.size, info.mtime_ns):
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    fs.copy_files(info.path, str(unfinished), source_filesystem=file_system)
    os.utime(unfinished, ns=(info.mtime_ns, info.mtime_ns))
    unfinished.replace(path)
