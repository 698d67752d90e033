"""Make large arrays once per cache folder, and share them between the processes of a node.

A process maps the file of an array that another process made, so the node holds one copy, in the page cache.
The file is next to the corpus, named by everything that decides its content; nodes with a shared cache make
it once for all of them. If the cache cannot be written, each node makes it once in its temporary folder.
Small arrays, and arrays of a corpus without a folder, stay in the memory of the process.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from hbt_dist.common.files import explained_write, write_json
from hbt_dist.data.cache import MANIFEST, built_once, read_manifest

IN_MEMORY_BYTES = 1 << 24  # a smaller array takes longer to share than to make


@dataclass(frozen=True)
class Space:
    """Provides arrays to fill: in memory, or in files of a folder.

    Files have all their blocks from the start, so a full disk raises an error instead of a signal.
    """

    folder: Path | None = None

    def empty(self, name: str, length: int, dtype: type[np.integer]) -> NDArray[Any]:
        """Return a new array (length,); a file begins with zeros."""
        if self.folder is None or not length:
            return np.empty(length, dtype)
        array: NDArray[Any] = open_memmap(self._path(name), "w+", dtype, (length,))
        with self._path(name).open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, self._path(name).stat().st_size)
        return array

    @staticmethod
    def flush(array: NDArray[Any]) -> None:
        """Write the file of an array, so that all nodes see its content."""
        if isinstance(array, np.memmap):
            array.flush()

    def remove(self, name: str) -> None:
        """Remove the file of an array that only the making needs."""
        if self.folder is not None:
            self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.npy"


def shared_array(
    name: str, recipe: Any, corpus_folder: Path, num_bytes: int, make: Callable[[Space], tuple[Any, Any]]
) -> tuple[NDArray[Any], Any]:
    """Return an array and the facts that `make` gives for it; `make` runs once for all processes of a node.

    Args:
        name: what the array is, part of the folder's name.
        recipe: plain data that decides its content.
        corpus_folder: of the corpus; the array's folder is next to it.
        num_bytes: size of the array.
        make: fills an array of a space and returns it with facts, plain data.

    Raises:
        UserError: no folder for the array can be written.
    """
    if num_bytes < IN_MEMORY_BYTES or not corpus_folder.is_dir():
        return make(Space())
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()

    def build(unfinished: Path) -> None:
        space = Space(unfinished)
        array, facts = make(space)
        space.flush(array)  # before another node can see the manifest
        os.rename(array.filename, unfinished / "array.npy")
        write_json(unfinished / MANIFEST, {"recipe": recipe, "facts": facts}, indent=None)

    folder = _cache_of(corpus_folder, f"{name}-{digest[:24]}")
    with explained_write(folder, "free some disk space, or choose another data.cache_dir"):
        built_once(folder, build)
    array = np.load(folder / "array.npy", mmap_mode="r")
    return np.asarray(array), read_manifest(folder)["facts"]


def _cache_of(corpus_folder: Path, name: str) -> Path:
    """Return the folder for an array: next to the corpus, else in the node's temporary folder."""
    cache = corpus_folder.parent
    if (cache / name / MANIFEST).exists() or os.access(cache, os.W_OK):
        return cache / name
    local = Path(tempfile.gettempdir()) / f"hbt_dist-{os.getuid()}"
    with explained_write(local, f"make {cache} writable, or set TMPDIR to a writable folder"):
        local.mkdir(mode=0o700, exist_ok=True)
    return local / name
