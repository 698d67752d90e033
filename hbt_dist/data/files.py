"""Read text files, and name every mistake in them by file, line and remedy.

Files stream line by line; `.gz` and `.dz` (dictzip) are decompressed on the way, a `.tar.gz` of one file is
unpacked too. Only `UserError` leaves these functions for any bytes: missing file, folder instead of file,
damaged gzip, bytes that aren't UTF-8, malformed JSON, JSON nested beyond reason.
"""

from __future__ import annotations

import gzip
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import sha256_of
from hbt_dist.data.languages import language_code

_BYTE_ORDER_MARK = "\ufeff"


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error about a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return UserError(str(path), "there is no such file", "check the path and the data folder")
    if isinstance(error, IsADirectoryError):
        return UserError(str(path), "this is a folder, not a file", "name the file itself")
    return UserError(str(path), f"cannot be read ({error.strerror or error})")


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; `UserError` if it cannot be read."""
    try:
        return sha256_of(path)
    except OSError as error:
        raise unreadable(path, error) from None


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for reading, decompressing by its ending; errors of the file become `UserError`."""
    try:
        with path.open("rb") as raw:
            if path.name.endswith(".tar.gz"):
                with tarfile.open(fileobj=raw, mode="r:gz") as archive:
                    yield _only_member(archive, path)
            elif path.suffix in {".gz", ".dz"}:
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(BinaryIO, unpacked)
            else:
                yield raw
    except EOFError:
        raise UserError(
            str(path), "the gzip file ends too early", "it was cut off: copy or download it again"
        ) from None
    except (gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise UserError(
            str(path), f"not a readable gzip file ({error})", "copy or download it again, or rename it"
        ) from None
    except OSError as error:
        raise unreadable(path, error) from None


def _only_member(archive: tarfile.TarFile, path: Path) -> BinaryIO:
    """Return the only file of an archive, not counting what macOS adds (`._name`)."""
    members = [
        member for member in archive if member.isfile() and not Path(member.name).name.startswith("._")
    ]
    if len(members) != 1:
        raise UserError(
            str(path), f"holds {len(members)} files", "expected an archive of one file: unpack it"
        )
    return cast(BinaryIO, archive.extractfile(members[0]))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) of a UTF-8 file."""
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, f"{path} line {number}")
            yield number, (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")


def read_filled_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (location, line) of the lines that are not blank."""
    for number, line in read_lines(path):
        if line.strip():
            yield f"{path} line {number}", line


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, object) for each line of a JSON Lines file; blank lines are skipped.

    Raises:
        UserError: the file holds no object at all, or a line isn't a JSON object.
    """
    empty = True
    for location, line in read_filled_lines(path):
        empty = False
        yield location, _parse_object(line, location)
    if empty:
        raise UserError(str(path), "the file is empty", "it should hold one JSON object per line")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, read as a whole."""
    with open_bytes(path) as stream:
        text = _decode(stream.read(), str(path))
    return _parse_object(text.removeprefix(_BYTE_ORDER_MARK), str(path))


def _decode(raw: bytes, location: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            location, f"byte {error.start + 1} is not UTF-8 ({error.reason})", "convert the file to UTF-8"
        ) from None


def _parse_object(text: str, location: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        line = f"{location} line {error.lineno}" if "\n" in text else location
        raise UserError(
            line, f"malformed JSON at column {error.colno}: {error.msg}", "repair or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(
            location, f"JSON that cannot be read ({error})", "repair or remove the line"
        ) from None
    if not isinstance(value, dict):
        raise UserError(location, f"holds {kind_of(value)}", "expected one JSON object: {...}")
    return value


def kind_of(value: object) -> str:
    """Return the JSON name of a value's type, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def find_file(folder: Path, name: str, *, compressed_first: bool = False) -> Path:
    """Return a file of a folder, compressed (`.gz`) or not.

    Raises:
        UserError: there is neither.
    """
    names = (f"{name}.gz", name) if compressed_first else (name, f"{name}.gz")
    path = find_any(folder, names)
    if path is None:
        raise UserError(str(folder), f"holds neither {names[0]} nor {names[1]}", "check the folder")
    return path


def find_any(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of some files that a folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def existing_folder(folder: Path, remedy: str) -> Path:
    """Return the folder.

    Raises:
        UserError: it does not exist, or is a file.
    """
    if not folder.is_dir():
        problem = "this is a file, not a folder" if folder.exists() else "there is no such folder"
        raise UserError(str(folder), problem, remedy)
    return folder


def paths_by_language(
    folder: Path, paths: Iterable[Path], code_of: Callable[[Path], str], example: str
) -> dict[str, Path]:
    """Return language -> path of the paths whose name holds a language code; skip the rest.

    Args:
        folder: location for messages.
        code_of: cuts the code out of a path's name.
        example: such a name, for messages.

    Raises:
        UserError: two paths name the same language, or no path names any.
    """
    named: dict[str, Path] = {}
    for path in sorted(paths):
        try:
            language = language_code(code_of(path))
        except ValueError:
            continue
        if language in named:
            raise UserError(
                str(path), f"is a second file of {language!r}, next to {named[language]}", "keep one of them"
            )
        named[language] = path
    if not named:
        raise UserError(
            str(folder), f"holds nothing named by a language, such as {example}", "check the folder"
        )
    return named


def files_by_language(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Return language -> file of a folder, by the last part of its name between dots: `x.fin.txt` -> fi."""
    files = {
        path: path.name.removesuffix(suffix).rsplit(".", 1)[-1]
        for path in folder.iterdir()
        for suffix in suffixes
        if path.name.endswith(suffix)
    }
    return paths_by_language(folder, files, files.__getitem__, f"fin{suffixes[0]}")
