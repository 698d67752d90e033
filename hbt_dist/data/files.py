"""Read text files, and name every mistake in them by file, line and remedy.

Files stream line by line; `.gz`, `.dz` (dictzip), `.bz2`, `.xz` and `.zst` are decompressed on the way, a
`.tar.gz` of one file is unpacked too. Only `UserError` leaves these functions for any bytes: missing file,
folder instead of file, damaged compression, bytes that aren't UTF-8, malformed JSON, a key twice in an
object, JSON nested beyond reason.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import re
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow

from hbt_dist.common.console import note_once
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import sha256_of
from hbt_dist.data.languages import has_form_of_code, language_code

_BYTE_ORDER_MARK = "\ufeff"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_RENAME = "name the file with the ending {}, or unpack it"
#: First bytes of files that are not text -> what they are, and the remedy.
_NO_TEXT = {
    b"\xff\xfe\0\0": ("UTF-32", "iconv -f UTF-32 -t UTF-8"),
    b"\0\0\xfe\xff": ("UTF-32", "iconv -f UTF-32 -t UTF-8"),
    b"version https://git-lfs": ("a Git LFS pointer", "git lfs pull"),
    b"\x1f\x8b": ("gzip", _RENAME.format(".gz")),
    b"BZh": ("bzip2", _RENAME.format(".bz2")),
    b"\xfd7zXZ": ("xz", _RENAME.format(".xz")),
    b"\x28\xb5\x2f\xfd": ("Zstandard", _RENAME.format(".zst")),
    b"PK\x03\x04": ("a zip archive", "unpack it"),
    b"PAR1": ("Parquet", "format: parquet"),
}


def _gzip(stream: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=stream)


def _zstandard(stream: BinaryIO) -> io.BufferedReader:
    return io.BufferedReader(pyarrow.CompressedInputStream(stream, "zstd"))


#: Ending of a compressed file -> function that unpacks its stream.
COMPRESSIONS: Mapping[str, Callable[[BinaryIO], Any]] = {
    ".gz": _gzip,
    ".dz": _gzip,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstandard,
}


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error about a file that cannot be opened."""
    if isinstance(error, FileNotFoundError):
        return UserError(str(path), "there is no such file", "check the path and the data folder")
    if isinstance(error, IsADirectoryError):
        return UserError(str(path), "this is a folder, not a file", "name the file itself")
    remedy = "check its permissions, or copy it again"
    return UserError(str(path), f"cannot be read ({error.strerror or error})", remedy)


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device: files are read more than once.

    Raises:
        OSError: there is no such file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        problem = "expected a file, got a pipe or a device"
        raise UserError(str(path), problem, "write the content into a file: it is read more than once")


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits; `UserError` if it cannot be read."""
    try:
        check_regular(path)
        return sha256_of(path)
    except OSError as error:
        raise unreadable(path, error) from None


def digest_of_content(path: Path) -> str:
    """Return the SHA-256 of a file's content without compression; `UserError` if it cannot be read."""
    with open_bytes(path) as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for reading, decompressing by its ending; errors of the file become `UserError`."""
    try:
        check_regular(path)
        with path.open("rb") as raw:
            if path.name.endswith(".tar.gz"):
                with tarfile.open(fileobj=raw, mode="r:gz") as archive:
                    yield _only_member(archive, path)
            elif path.suffix in COMPRESSIONS:
                with COMPRESSIONS[path.suffix](raw) as unpacked:
                    yield unpacked
            else:
                yield raw
    except EOFError:
        raise UserError(
            str(path), "the compressed file ends too early", "it was cut off: copy or download it again"
        ) from None
    except (gzip.BadGzipFile, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            str(path),
            f"not a readable {'gzip' if path.suffix in {'.gz', '.dz'} else path.suffix} file ({error})",
            "copy or download it again, or rename it",
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


def read_raw_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line with its line end) of a UTF-8 file, without its byte order mark.

    Raises:
        UserError: the file is UTF-16, or its lines end in CR alone.
    """
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, start=1):
            if number == 1:
                _check_first_line(raw, path)
            try:
                line = raw.decode()
            except UnicodeDecodeError:
                line = _decode(raw, f"{path} line {number}")  # raises
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line


def _check_first_line(raw: bytes, path: Path) -> None:
    for head, (problem, remedy) in _NO_TEXT.items():
        if raw.startswith(head):
            raise UserError(str(path), f"expected UTF-8 text, got {problem}", remedy)
    if raw.startswith(_UTF_16_MARKS) or (b"\0" in raw[:2] and raw[:2] != b"\0\0"):
        raise UserError(str(path), "expected UTF-8, got UTF-16", f"iconv -f UTF-16 -t UTF-8 {path.name}")
    if b"\r" in raw.rstrip(b"\r\n") and not raw.endswith(b"\n"):
        remedy = f"tr '\\r' '\\n' < {path.name}"
        raise UserError(str(path), "the lines end in CR alone, as on old Macs", remedy)


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) of a UTF-8 file."""
    return ((number, line.rstrip("\r\n")) for number, line in read_raw_lines(path))


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
        raw = stream.read()
    _check_first_line(raw[:32], path)
    text = _decode(raw, str(path))
    return _parse_object(text.removeprefix(_BYTE_ORDER_MARK), str(path))


def _decode(raw: bytes, location: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            location, f"byte {error.start + 1} is not UTF-8 ({error.reason})", "convert the file to UTF-8"
        ) from None


class _RepeatedKeyError(Exception):
    """A key comes twice in a JSON object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return content


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _parse_object(text: str, location: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text)
    except _RepeatedKeyError as error:
        raise UserError(
            location, f"key {error.args[0]!r} comes twice in one object", "keep one of the two"
        ) from None
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


_KIND_NAMES: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    type(None): "null",
    bytes: "bytes, not text",
    date: "a date",
    time: "a time",
    timedelta: "a duration",
}


def kind_of(value: object) -> str:
    """Return the name of a value's type, for messages."""
    return next((name for kind, name in _KIND_NAMES.items() if isinstance(value, kind)), "a number")


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
    """Return language -> path of the paths whose name holds a language code, in the order of their names.

    Left out with a note: names without a language, and second paths of a language, by their names: a code
    with more parts (`por-BR` next to `por`), or a longer beginning (`ref-2.spa` next to `ref.spa`).

    Args:
        folder: location for messages.
        code_of: cuts the code out of a path's name.
        example: such a name, for messages.

    Raises:
        UserError: two paths name the same language equally well, a name has the form of an unknown code, or
            no path names any.
    """
    named: dict[str, Path] = {}
    skipped, second = [], []
    for path in sorted(paths, key=lambda path: (_parts(code_of(path)), len(path.name), path)):
        code = code_of(path)
        try:
            language = language_code(code)
        except ValueError as error:
            if has_form_of_code(code):
                raise UserError(str(path), str(error), "rename it, or move it out of the folder") from None
            skipped += [path.name] if not path.name.startswith(".") else []
            continue
        first = named.setdefault(language, path)
        if first == path:
            continue
        longer, beginning = (file.name.rpartition(code_of(file))[0].rstrip(".") for file in (path, first))
        if _parts(code) == _parts(code_of(first)) and not longer.startswith(f"{beginning}-"):
            raise UserError(
                str(path), f"is a second file of {language!r}, next to {first}", "keep one of them"
            )
        second.append(path.name)
    if not named:
        raise UserError(
            str(folder), f"holds nothing named by a language, such as {example}", "check the folder"
        )
    for names, reason in ((skipped, "whose names are not languages"), (second, "of languages with another")):
        if names:
            listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            note_once(f"{folder}: left out {len(names)} {reason}: {listed}")
    return dict(sorted(named.items(), key=lambda item: item[1]))


def _parts(code: str) -> int:
    return len(re.split("[-_]", code))


def files_by_language(folder: Path, *suffixes: str) -> dict[str, Path]:
    """Return language -> file of a folder, by the last part of its name between dots: `x.fin.txt` -> fi."""
    files = {
        path: path.name.removesuffix(suffix).rsplit(".", 1)[-1]
        for path in folder.iterdir()
        for suffix in suffixes
        if path.name.endswith(suffix)
    }
    return paths_by_language(folder, files, files.__getitem__, f"fin{suffixes[0]}")
