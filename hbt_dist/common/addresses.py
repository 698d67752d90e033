"""Open addresses of other storage (s3://, gs://, file://) through pyarrow's file systems."""

from __future__ import annotations

from pathlib import Path

from pyarrow import fs


def is_address(path: str) -> bool:
    """Check whether a path is an address of other storage."""
    return "://" in path


def open_address(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of an address or folder, and the path in it.

    Raises:
        OSError, ValueError: pyarrow cannot open the address.
    """
    uri = address if is_address(address) else Path(address).absolute().as_uri()
    file_system, path = fs.FileSystem.from_uri(uri)
    return file_system, path.rstrip("/")
