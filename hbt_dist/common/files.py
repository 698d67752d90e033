"""Write files so that a reader sees the old content or the new content, never half of it.

`atomic_*` and `write_json` write to a temporary name in the same folder and rename it. A killed process
leaves a temporary file, or a temporary folder, which the next write to the same target replaces.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from errno import EINVAL, ENAMETOOLONG
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, first_line

LATE_SECONDS = 30.0  # the time that a network file system may take to show a new file
_FULL = 16 * 1024**2  # bytes; with less space left, a failed write without a reason means a full disk


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` if the block ends without an error.

    Several processes may write the same file. Containers that share a disk can have the same process number,
    so the temporary name is drawn.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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

    Its files become as readable and writable as the umask allows: safetensors gives them to the owner alone.
    The caller decides what happens to an existing `folder` before the block ends: a rename replaces an empty
    folder only.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        allowed = temporary.stat().st_mode & 0o666
        for file in temporary.rglob("*"):
            mode = file.lstat().st_mode
            if stat.S_ISREG(mode) and allowed & ~mode:
                file.chmod(stat.S_IMODE(mode) | allowed)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def link_files(source: Path, target: Path) -> None:
    """Give all files of a folder a second name in `target`, or copies on file systems without hard links.

    Raises:
        OSError, shutil.Error: a file cannot be read, or `target` cannot be written.
    """
    shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


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
        content = path.read_bytes()  # a killed writer may leave half a character
    except FileNotFoundError:
        return []
    lines = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
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


def flush_to_disk(path: Path) -> None:
    """Force the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def wait_for(path: Path, seconds: float | None = None) -> bool:
    """Return whether a path exists within `seconds`; default: `LATE_SECONDS`."""
    deadline = time.monotonic() + (LATE_SECONDS if seconds is None else seconds)
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~name` replaced by the home folder.

    Raises:
        UserError: there is no such home folder, or no file can have this name.
    """
    try:
        result = Path(path).expanduser()
        os.lstat(result)
    except RuntimeError:
        raise UserError(str(path), "no home folder for ~", "write the path without ~") from None
    except (OSError, ValueError) as error:
        if getattr(error, "errno", EINVAL) in {EINVAL, ENAMETOOLONG}:
            problem = "expected a path, got a name that no file can have"
            raise UserError(str(path), problem, "check the path") from None
    return result


@contextlib.contextmanager
def explained_write(path: Path, remedy: str) -> Iterator[None]:
    """Raise a `UserError` with a remedy if the block cannot write to `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(
            str(path), f"cannot be written: {error.strerror or first_line(error)}", remedy
        ) from error


def check_writable(folder: Path, remedy: str = "name a folder you can write") -> None:
    """Check that `folder` can be made or replaced, before hours of work rather than after.

    Raises:
        UserError: a file is in the way, or the nearest folder above it cannot be written.
    """
    above = next(path for path in folder.absolute().parents if path.exists())
    with explained_write(folder, remedy), tempfile.TemporaryDirectory(prefix=".hbt-", dir=above):
        pass


def check_new_folder(folder: Path) -> None:
    """Check that `folder` is new or empty and can be written.

    Raises:
        UserError: it holds something, a file is in the way, or the folder above it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(str(folder), "exists and is not empty", "give a new folder")
    check_writable(folder)


def explain_failed_write(error: Exception, folder: Path) -> str:
    """Return one line on why a write below `folder` failed; torch and safetensors hide a full disk."""
    if isinstance(error, OSError):
        return f"{error.strerror or error} ({error.filename or folder})"
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if free < _FULL:
        return f"No space left on device ({free / 1024**2:.1f} MiB free at {folder})"
    return first_line(error)
