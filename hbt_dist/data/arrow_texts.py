"""Store millions of ids and texts in Arrow files, and read them through a memory map.

`StoredTexts` is a column of a file of ids and texts, with the interface of a list. It holds neither memory
nor an open file between reads, so that a walk over 10^8 texts costs the block that is read; pages return to
the system when the map closes. It pickles as a path. Reading costs about 1 us per text in order, 50 us for a
single text: read rows without an order together (`take_texts`).

`TextTable` holds rows with texts in several languages, in one file per language. A file exists only if some
row has the language, and is mapped at its first use, so a run in two of twelve languages touches two files.
Rows without the language hold null (4 bytes). `datasets.Dataset.from_file` opens these files too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS_PER_BATCH = 4096
_ROWS_PER_READ = 2 * ROWS_PER_BATCH

ID, TEXT = "id", "text"
_SCHEMA = pa.schema([(ID, pa.string()), (TEXT, pa.string())])
_ROWS_PER_TABLE_BATCH = 10_000
_TEXT_SCHEMA = pa.schema([(TEXT, pa.string())])
_ID_FILE = "_id"


class StoredTexts(Sequence[str]):
    """A column of a file that `StoredTextsWriter` wrote: a read-only sequence of strings."""

    def __init__(self, path: Path, column: str) -> None:
        self.path, self.column = path, column
        with self._reader() as reader:
            full = max(0, reader.num_record_batches - 1)
            last = reader.get_batch(full).num_rows if reader.num_record_batches else 0
        self._num_rows = full * ROWS_PER_BATCH + last

    def __len__(self) -> int:
        return self._num_rows

    @overload
    def __getitem__(self, rows: int) -> str: ...

    @overload
    def __getitem__(self, rows: slice) -> list[str]: ...

    def __getitem__(self, rows: int | slice) -> str | list[str]:
        if isinstance(rows, slice):
            return self.take(np.arange(*rows.indices(self._num_rows)))
        row = int(rows) + (self._num_rows if rows < 0 else 0)
        if not 0 <= row < self._num_rows:
            raise IndexError(f"row {rows} of {self._num_rows}")
        return self.take(np.array([row]))[0]

    def __iter__(self) -> Iterator[str]:
        for start in range(0, self._num_rows, _ROWS_PER_READ):
            yield from self[start : start + _ROWS_PER_READ]

    def take(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the strings of some rows, in the given order; each batch of the file is read once."""
        strings = np.empty(len(rows), object)
        numbers, inside = np.divmod(rows, ROWS_PER_BATCH)
        by_batch = np.argsort(numbers, kind="stable")
        edges = np.flatnonzero(np.diff(numbers[by_batch], prepend=-1, append=-1)).tolist()
        with self._reader() as reader:
            for first, last in pairwise(edges):
                positions = by_batch[first:last]
                column = reader.get_batch(int(numbers[positions[0]])).column(self.column)
                strings[positions] = column.take(pa.array(inside[positions])).to_pylist()
        return list(strings)

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with pa.memory_map(str(self.path)) as source:
            yield pa.ipc.open_file(source)


def take_texts(texts: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
    """Return the texts of some rows of a list or a `StoredTexts`."""
    return texts.take(rows) if isinstance(texts, StoredTexts) else [texts[row] for row in rows.tolist()]


class StoredTextsWriter:
    """Writes pairs of id and text, in order, so that every batch but the last has `ROWS_PER_BATCH` rows."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, _SCHEMA)
        self._waiting = _SCHEMA.empty_table()

    def append(self, ids: Any, texts: Any) -> None:
        """Add rows; `ids` and `texts` are lists or Arrow arrays of strings."""
        more = pa.Table.from_arrays([ids, texts], schema=_SCHEMA)
        table = pa.concat_tables([self._waiting, more]).combine_chunks()
        whole = table.num_rows - table.num_rows % ROWS_PER_BATCH
        self._writer.write_table(table.slice(0, whole), max_chunksize=ROWS_PER_BATCH)
        self._waiting = table.slice(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._writer.write_table(self._waiting)
        self._writer.close()
        self._sink.close()


class TextTable:
    """The ids and texts of `num_rows` rows in `folder`, as `TextTableWriter` wrote them."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.folder = folder
        self.num_rows = num_rows
        self._columns: dict[str, tuple[list[int], list[Any]]] = {}  # first row of each batch

    def id(self, row: int) -> str:
        """Return the id of a row."""
        return str(self._read(_ID_FILE, row, row + 1)[0])

    def texts(self, language: str, start: int, stop: int) -> list[str | None]:
        """Return the texts of rows start..stop-1 in a language; None where the language is absent."""
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}..{stop} of {self.num_rows}")
        return self._read(language, start, stop)

    def _read(self, name: str, start: int, stop: int) -> list[Any]:
        if name not in self._columns:
            path = self.folder / f"{name}.arrow"
            batches = list(pa.ipc.open_stream(pa.memory_map(str(path)))) if path.exists() else []
            columns = [batch.column(0) for batch in batches]
            self._columns[name] = ([0, *accumulate(map(len, columns))], columns)
        first_rows, columns = self._columns[name]
        if not columns:
            return [None] * (stop - start)
        texts: list[Any] = []
        number = bisect_right(first_rows, start) - 1
        while start < stop:
            end = min(stop, first_rows[number + 1])
            texts += columns[number][start - first_rows[number] : end - first_rows[number]].to_pylist()
            start, number = end, number + 1
        return texts


class TextTableWriter:
    """Writes a `TextTable` row by row; a language may begin at any row."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.num_rows = 0
        self._files = ExitStack()
        self._writers: dict[str, Any] = {}
        self._rows: list[tuple[str, dict[str, str]]] = []

    def append(self, row_id: str, texts: dict[str, str]) -> int:
        """Add a row and return its number."""
        self._rows.append((row_id, texts))
        self.num_rows += 1
        if len(self._rows) >= _ROWS_PER_TABLE_BATCH:
            self._flush()
        return self.num_rows - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._files.close()

    def _flush(self) -> None:
        columns: dict[str, list[str | None]] = {_ID_FILE: [row_id for row_id, _ in self._rows]}
        for language in [*self._writers, *(code for _, texts in self._rows for code in texts)]:
            if language not in columns:
                columns[language] = [texts.get(language) for _, texts in self._rows]
        for name, column in columns.items():
            if name not in self._writers:
                self._writers[name] = self._new_file(name, self.num_rows - len(self._rows))
            self._writers[name].write_batch(_text_batch(column))
        self._rows = []

    def _new_file(self, name: str, rows_before: int) -> Any:
        """Open the file of a language; the rows before have no text in it."""
        writer = self._files.enter_context(
            pa.ipc.new_stream(str(self.folder / f"{name}.arrow"), _TEXT_SCHEMA)
        )
        for start in range(0, rows_before, _ROWS_PER_TABLE_BATCH):
            rows = min(_ROWS_PER_TABLE_BATCH, rows_before - start)
            writer.write_batch(_text_batch([None] * rows))
        return writer


def _text_batch(texts: list[str | None]) -> Any:
    return pa.record_batch([pa.array(texts, pa.string())], schema=_TEXT_SCHEMA)
