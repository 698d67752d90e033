"""Reading text files so that every mistake in them is named by file, line and remedy.

Files stream line by line; `.gz` and `.dz` (dictzip) are decompressed on the way, a `.tar.gz` of one file is
unpacked too. Only `UserError` leaves these functions, whatever the bytes are: missing file, folder instead of
file, damaged gzip, bytes that aren't UTF-8, malformed JSON, JSON nested beyond reason.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from hbt_dist.common.errors import UserError

_BYTE_ORDER_MARK = "\ufeff"


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
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "check the path and the data folder") from None
    except IsADirectoryError:
        raise UserError(str(path), "this is a folder, not a file", "name the file itself") from None
    except EOFError:
        raise UserError(
            str(path), "the gzip file ends too early", "it was cut off: copy or download it again"
        ) from None
    except (gzip.BadGzipFile, tarfile.TarError, zlib.error) as error:
        raise UserError(
            str(path), f"not a readable gzip file ({error})", "copy or download it again, or rename it"
        ) from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})") from None


def _only_member(archive: tarfile.TarFile, path: Path) -> BinaryIO:
    """The file of an archive that holds one, beside what macOS adds (`._name`)."""
    members = [one for one in archive if one.isfile() and not Path(one.name).name.startswith("._")]
    if len(members) != 1:
        raise UserError(
            str(path), f"holds {len(members)} files", "expected an archive of one file: unpack it"
        )
    return cast(BinaryIO, archive.extractfile(members[0]))


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) of a UTF-8 file."""
    with open_bytes(path) as stream:
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} line {number}",
                    f"byte {error.start + 1} of the line is not UTF-8 ({error.reason})",
                    "convert the file to UTF-8",
                ) from None
            yield number, (line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line).rstrip("\r\n")


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) for each line of a JSON Lines file; empty lines are passed over.

    Raises:
        UserError: the file holds no object at all, or a line isn't a JSON object.
    """
    empty = True
    for number, line in read_lines(path):
        if not line.strip():
            continue
        empty = False
        place = f"{path} line {number}"
        value = _parse_json(line, place)
        if not isinstance(value, dict):
            raise UserError(place, f"holds {kind_of(value)}", "each line holds one JSON object: {...}")
        yield place, value
    if empty:
        raise UserError(str(path), "the file is empty", "it should hold one JSON object per line")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, read as a whole."""
    with open_bytes(path) as stream:
        raw = stream.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            str(path), f"byte {error.start + 1} is not UTF-8 ({error.reason})", "convert the file to UTF-8"
        ) from None
    value = _parse_json(text, str(path))
    if not isinstance(value, dict):
        raise UserError(str(path), f"holds {kind_of(value)}", "expected one JSON object: {...}")
    return value


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{place} line {error.lineno}" if "\n" in text else place
        raise UserError(
            where, f"malformed JSON at column {error.colno}: {error.msg}", "repair or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(place, f"JSON that cannot be read ({error})", "repair or remove the line") from None


def kind_of(value: object) -> str:
    """The JSON name of a value's type, for messages."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def digest_of_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, as hexadecimal digits."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise UserError(str(path), "there is no such file", "check the path and the data folder") from None
    except OSError as error:
        raise UserError(str(path), f"cannot be read ({error.strerror or error})") from None
