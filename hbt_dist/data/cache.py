"""Keep folders that are made once from files: complete or absent, named by the content of the files.

Processes that want the same folder at the same time wait for the process that makes it. Digests of large
files are remembered next to the folders, by size and modification time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from hbt_dist.common.files import atomic_folder, explained_write, write_json
from hbt_dist.data.files import COMPRESSIONS, digest_of_content, digest_of_file

MANIFEST = "manifest.json"
# A file changed this recently may change in the same tick of the clock: its digest isn't remembered.
_SETTLED_SECONDS = 2.0


def make_cache(cache_dir: Path, setting: str) -> None:
    """Make the cache folder if it is absent.

    Args:
        setting: its name in the run file, for the message.

    Raises:
        UserError: it cannot be made.
    """
    with explained_write(cache_dir, f"choose another {setting}"):
        cache_dir.mkdir(parents=True, exist_ok=True)


def built_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, which is complete if it holds a manifest; otherwise `build` fills a new one first.

    An interrupted build is removed, at once or, after a kill, by the next build.
    """
    if not (folder / MANIFEST).exists():
        with FileLock(f"{folder}.lock"):
            if not (folder / MANIFEST).exists():
                with atomic_folder(folder) as unfinished:
                    build(unfinished)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a complete folder."""
    manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
    return manifest


def remembered_digest(path: Path, cache_dir: Path, *, unpacked: bool = False) -> str:
    """Return the SHA-256 of a file, remembered in `cache_dir` by its size and modification time.

    Args:
        unpacked: digest the content without compression.

    Raises:
        UserError: the file does not exist or cannot be read.
    """
    digest_of = digest_of_content if unpacked and path.suffix in COMPRESSIONS else digest_of_file
    memory = cache_dir / "digests.json"
    try:
        status = path.stat()
    except OSError:
        return digest_of(path)  # raises the error that names the file
    stamp = [status.st_size, status.st_mtime_ns]
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    key = f"{path.resolve()}{' unpacked' if digest_of is digest_of_content else ''}"
    if isinstance(known.get(key), list) and known[key][:2] == stamp:
        return str(known[key][2])
    digest = digest_of(path)
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        write_json(memory, {**known, key: [*stamp, digest]})
    return digest
