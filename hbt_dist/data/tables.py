"""Read the rows of JSON lines, CSV, TSV, Parquet and Arrow files, in order and in little memory.

A row is (location, values by column).
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.files import read_filled_lines, read_json_lines, read_raw_lines, unreadable

Row = tuple[str, dict[str, Any]]
_ROWS_PER_READ = 1_000


def parquet_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a Parquet file."""
    with _explained(path, "Parquet"):
        # A buffer ahead would keep every row group that was read until the end of the file.
        batches = pyarrow.parquet.ParquetFile(path, pre_buffer=False).iter_batches(_ROWS_PER_READ)
    return _batch_rows(path, "Parquet", batches)


def arrow_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of an Arrow file: the file format (Feather 2), or the stream that `datasets` writes."""
    with _explained(path, "Arrow"), pyarrow.OSFile(str(path)) as source:
        try:
            reader = pyarrow.ipc.open_file(source)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            batches = iter(pyarrow.ipc.open_stream(source))
        pieces = (
            batch.slice(start, _ROWS_PER_READ)
            for batch in batches
            for start in range(0, batch.num_rows, _ROWS_PER_READ)
        )
        yield from _batch_rows(path, "Arrow", pieces)


def _batch_rows(path: Path, kind: str, batches: Iterator[Any]) -> Iterator[Row]:
    number = 0
    while True:
        with _explained(path, kind):
            if (batch := next(batches, None)) is None:
                return
            rows = batch.to_pylist(maps_as_pydicts="strict")
        for row in rows:
            yield f"{path} row {number}", row
            number += 1


@contextmanager
def _explained(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise unreadable(path, error) from None
    except UnicodeDecodeError:
        raise UserError(str(path), "a text is not UTF-8", "write it once more, from texts in UTF-8") from None
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        problem = f"not a readable {kind} file ({first_line(error)})"
        raise UserError(str(path), problem, "write it once more") from None


def csv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a CSV file with a header; quoted texts may hold line ends. Empty cells are None.

    The separator is a comma; a header without a comma has semicolons.
    """
    lines = (line for _, line in read_raw_lines(path))
    first = next(lines, "")
    csv.field_size_limit(sys.maxsize)  # texts may be long

    def text() -> Iterator[str]:
        yield first
        yield from lines

    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(text(), delimiter=separator, strict=True)
    header: list[str] | None = None
    begin = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path} line {begin}", f"not a row of CSV ({error})", "put texts in double quotes"
            ) from None
        location, begin = f"{path} line {begin}", reader.line_num + 1
        if cells is None:
            break
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, location)
            continue
        yield location, _row(header, cells, location)
    _must_have_header(header, path)


def tsv_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a TSV file with a header. Empty cells are None.

    Texts need no quotes and hold neither tabs nor line ends. Quotes around a whole cell are removed, as
    writers of CSV put them.
    """
    header: list[str] | None = None
    for location, line in read_filled_lines(path):
        cells = line.split("\t")
        if '"' in line:
            cells = [_unquoted(cell) for cell in cells]
        if header is None:
            header = _checked_header(cells, location)
        else:
            yield location, _row(header, cells, location)
    _must_have_header(header, path)


def _unquoted(cell: str) -> str:
    inner = cell[1:-1]
    if len(cell) < 2 or cell[0] != '"' or cell[-1] != '"' or '"' in inner.replace('""', ""):
        return cell
    return inner.replace('""', '"')


def _checked_header(cells: list[str], location: str) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise UserError(location, f"the header has {twice[0]!r} twice", "give each column a name")
    return cells


def _must_have_header(header: list[str] | None, path: Path) -> None:
    if header is None:
        raise UserError(str(path), "the file is empty", "its first line should name the columns")


def _row(header: list[str], cells: list[str], location: str) -> dict[str, Any]:
    if len(cells) != len(header):
        raise UserError(
            location,
            f"has {len(cells)} cells, the header {len(header)}",
            "quote texts with separators or line ends (CSV), or write JSON lines",
        )
    return {name: cell or None for name, cell in zip(header, cells, strict=True)}


ROWS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    "jsonl": read_json_lines,
    "csv": csv_rows,
    "tsv": tsv_rows,
    "parquet": parquet_rows,
    "arrow": arrow_rows,
}
