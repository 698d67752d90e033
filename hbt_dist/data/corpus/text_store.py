"""Texts of many rows in one Arrow file per language, written in batches, read through a memory map.

A language's file exists only if some row has it and is mapped when it is first asked for, so a run in two of
twelve languages touches two files. Rows without the language hold null (4 bytes). The files are Arrow IPC
streams that `datasets` writes and maps.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from datasets import Dataset, Features, Value
from datasets.arrow_writer import ArrowWriter

_ROWS_PER_BATCH = 10_000
_ID = "_id"


class TextStore:
    """The texts and ids of `num_rows` rows under `folder`."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.folder = folder
        self.num_rows = num_rows
        self._tables: dict[str, Any] = {}

    def id(self, row: int) -> str:
        """The id of a row."""
        return str(self._column(_ID, row, row + 1)[0])

    def ids(self, start: int, stop: int) -> list[str]:
        """The ids of rows start..stop-1."""
        return [str(one) for one in self._column(_ID, start, stop)]

    def texts(self, language: str, start: int, stop: int) -> list[str | None]:
        """The texts of rows start..stop-1 in a language; None where there is none."""
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}..{stop} of {self.num_rows}")
        if language not in self._tables and not (self.folder / f"{language}.arrow").exists():
            return [None] * (stop - start)
        return self._column(language, start, stop)

    def _column(self, name: str, start: int, stop: int) -> list[Any]:
        if not 0 <= start <= stop <= self.num_rows:
            raise IndexError(f"rows {start}..{stop} of {self.num_rows}")
        if start == stop:
            return []
        if name not in self._tables:
            self._tables[name] = Dataset.from_file(str(self.folder / f"{name}.arrow")).data
        texts: list[Any] = self._tables[name].fast_slice(start, stop - start).column(0).to_pylist()
        return texts


class TextStoreWriter:
    """Writes a `TextStore` row by row; languages may appear at any row."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.num_rows = 0
        self._written = 0
        self._writers: dict[str, ArrowWriter] = {}
        self._batch: list[tuple[str, dict[str, str]]] = []

    def append(self, row_id: str, texts: dict[str, str]) -> int:
        """Add a row and return its number."""
        self._batch.append((row_id, texts))
        self.num_rows += 1
        if len(self._batch) >= _ROWS_PER_BATCH:
            self._flush()
        return self.num_rows - 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
            for writer in self._writers.values():
                writer.finalize()
        else:
            for writer in self._writers.values():
                writer.close()

    def _flush(self) -> None:
        if not self._batch:
            return
        for language in dict.fromkeys(language for _, texts in self._batch for language in texts):
            self._writer(language)
        for name, writer in self._writers.items():
            if name == _ID:
                values: list[str | None] = [row_id for row_id, _ in self._batch]
            else:
                values = [texts.get(name) for _, texts in self._batch]
            writer.write_batch({"text": values})
        self._written += len(self._batch)
        self._batch = []

    def _writer(self, name: str) -> ArrowWriter:
        if _ID not in self._writers and name != _ID:
            self._writer(_ID)
        if name not in self._writers:
            writer = ArrowWriter(
                path=str(self.folder / f"{name}.arrow"),
                features=Features({"text": Value("string")}),
                writer_batch_size=_ROWS_PER_BATCH,
            )
            for start in range(0, self._written, _ROWS_PER_BATCH):  # the rows before have no such language
                writer.write_batch({"text": [None] * min(_ROWS_PER_BATCH, self._written - start)})
            self._writers[name] = writer
        return self._writers[name]
