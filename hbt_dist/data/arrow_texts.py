"""Millions of ids and texts in one Arrow file, read through a memory map a block at a time.

`StoredTexts` is one column of such a file behind the interface of a list. It holds neither memory nor an open
file between reads, so that a walk over 10^8 texts costs the block that is looked at; pages are given back
when the map closes. It pickles as a path. Reading costs about 1 us per text in order, 50 us for one alone:
rows in no order are best read together (`take_texts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROWS_PER_BATCH = 4096
_ROWS_PER_READ = 2 * ROWS_PER_BATCH

ID, TEXT = "id", "text"
_SCHEMA = pa.schema([(ID, pa.string()), (TEXT, pa.string())])


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
        """The strings of some rows, in the order given; each batch of the file is read once."""
        found = np.empty(len(rows), object)
        numbers, inside = np.divmod(rows, ROWS_PER_BATCH)
        by_batch = np.argsort(numbers, kind="stable")
        edges = np.flatnonzero(np.diff(numbers[by_batch], prepend=-1, append=-1))
        with self._reader() as reader:
            for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                here = by_batch[first:last]
                column = reader.get_batch(int(numbers[here[0]])).column(self.column)
                found[here] = column.take(pa.array(inside[here])).to_pylist()
        return list(found)

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        with pa.memory_map(str(self.path)) as source:
            yield pa.ipc.open_file(source)


def take_texts(texts: Sequence[str], rows: NDArray[np.int64]) -> list[str]:
    """The texts of some rows of a list or a `StoredTexts`."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._writer.write_table(self._waiting)
        self._writer.close()
        self._sink.close()
