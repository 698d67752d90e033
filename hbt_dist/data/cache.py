"""Folders that are made once from files and kept: complete or absent, known by what the files hold.

A folder is built under another name and renamed when whole; processes that want it at the same time wait for
one of them. Digests of large files are remembered beside it, under size and modification time.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import digest_of_file

MANIFEST = "manifest.json"
# A file changed this shortly ago may change again without its time showing it: its digest isn't remembered.
_SETTLED_SECONDS = 2.0


def make_cache(cache_dir: Path, setting: str) -> None:
    """Make the cache folder unless it is there.

    Args:
        setting: its name in the run file, for the message.

    Raises:
        UserError: it cannot be made.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            str(cache_dir), f"cannot be made ({error.strerror})", f"choose another {setting}"
        ) from None


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """`folder`, which holds a manifest when it is whole; otherwise `build` is called with a new path for it.

    What an interrupted build left is removed, at once or, after a kill, by the next one.
    """
    if not (folder / MANIFEST).exists():
        with FileLock(f"{folder}.lock"):
            if not (folder / MANIFEST).exists():
                building = folder.with_name(f"{folder.name}.building")
                shutil.rmtree(building, ignore_errors=True)  # of a killed process: nobody else has the lock
                try:
                    build(building)
                    os.replace(building, folder)
                finally:
                    shutil.rmtree(building, ignore_errors=True)
    return folder


def remembered_digest(path: Path, cache_dir: Path) -> str:
    """SHA-256 of a file, remembered in `cache_dir` under its size and modification time.

    Raises:
        UserError: the file is not there or cannot be read.
    """
    memory = cache_dir / "digests.json"
    try:
        status = path.stat()
    except OSError:
        return digest_of_file(path)  # raises the error that names the file
    stamp = [status.st_size, status.st_mtime_ns]
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    key = str(path.resolve())
    if isinstance(known.get(key), list) and known[key][:2] == stamp:
        return str(known[key][2])
    digest = digest_of_file(path)
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        known[key] = [*stamp, digest]
        with tempfile.NamedTemporaryFile("w", dir=cache_dir, suffix=".digests", delete=False) as beside:
            json.dump(known, beside)
        os.replace(beside.name, memory)
    return digest
