"""Write files so that a reader sees the old content or the new content, never half of it.

Every function writes to a temporary name in the same folder and renames it. A killed process leaves a
temporary file or folder, which the next write to the same target replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` if the block ends without an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace the content of a file; text is written as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder; rename it to `folder` if the block ends without an error.

    The caller decides what happens to an existing `folder` before the block ends: a rename replaces an empty
    folder only.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """Replace a JSON file."""
    atomic_write(path, json.dumps(content, indent=indent, ensure_ascii=False) + "\n")


def append_line(path: Path, content: Any) -> None:
    """Append one JSON line; cut off the incomplete last line of a killed writer first."""
    with path.open("ab+") as file:
        file.seek(0)
        old = file.read()
        if old and not old.endswith(b"\n"):
            file.truncate(old.rfind(b"\n") + 1)
        file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
        file.flush()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a file that `append_line` writes; an empty list without a file.

    Raises:
        UserError: a complete line is not JSON.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    complete = text[: text.rfind("\n") + 1]
    lines = []
    for number, line in enumerate(complete.split("\n")[:-1], 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path} line {number}", "is not JSON", "repair or remove the line") from None
    return lines


def sha256_of(path: Path, *, flush: bool = False) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Args:
        flush: also force the file to disk.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
    return digest
