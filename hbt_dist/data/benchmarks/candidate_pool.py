"""Sort the candidates that a benchmark reader yields into the order of a benchmark: in memory, or on disk.

A benchmark's candidates are sorted by language and, inside a language, by id. `MemoryPool` sorts strings in
memory. `DiskPool` is for pools of 10^7 and more: texts are spooled to disk as they are read, the ids of one
language at a time are sorted (about 40 bytes per candidate), the spool is split into parts of at least 8 MB
with neighbouring rows, and each part is sorted. Every byte is read and written three times, always in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import ID, TEXT, StoredTexts, StoredTextsWriter

CANDIDATES = "candidates.arrow"

_ITEM, _LOCATION = "item", "location"
_SPOOL = pa.schema([(_ITEM, pa.string()), (TEXT, pa.string()), (_LOCATION, pa.string())])
_PART = pa.schema([(_ITEM, pa.string()), (TEXT, pa.string()), (_LOCATION, pa.int64())])
_ROWS_PER_WRITE, _CHARACTERS_PER_WRITE = 4096, 2**22
_WRITES_PER_READ = 4
_PART_BYTES, _MOST_PARTS = 2**23, 256
_LEFT_OUT = "_"  # spool of the items in languages that are left out


@dataclass(frozen=True)
class ArrangedCandidates:
    """N candidates in the order of a benchmark.

    Attributes:
        ids: (N,) language, ``_``, item.
        language: (N,) int32 positions in the list of languages.
        texts: (N,).
        rows: (language, item) -> row of the requested items.
    """

    ids: Sequence[str]
    language: NDArray[np.int32]
    texts: Sequence[str]
    rows: dict[tuple[str, str], int]


class MemoryPool:
    """Take candidates in any order and hold their texts."""

    def __init__(self) -> None:
        self._texts: dict[tuple[str, str], str] = {}  # by language and item
        self._left_out: set[str] = set()

    @property
    def languages(self) -> set[str]:
        """Languages that have a candidate."""
        return {language for language, _ in self._texts}

    def add(self, language: str, item: str, text: str, location: str) -> None:
        """Add a text.

        Raises:
            UserError: the language has this id already.
        """
        if (language, item) in self._texts:
            raise _repeated(language, item, location)
        self._texts[language, item] = text

    def leave_out(self, item: str) -> None:
        """Note an item in a language that is left out."""
        self._left_out.add(item)

    def left_out(self, items: set[str]) -> set[str]:
        """Return those of `items` that were noted."""
        return items & self._left_out

    def arrange(self, languages: tuple[str, ...], requested: set[str]) -> ArrangedCandidates:
        """Return all candidates by language and id, and the rows of the requested items.

        Args:
            languages: all that occur, in the order of the result.
            requested: items whose rows the result has.
        """
        index = {language: number for number, language in enumerate(languages)}
        keys = sorted(self._texts, key=lambda key: (index[key[0]], key[1]))
        return ArrangedCandidates(
            [f"{language}_{item}" for language, item in keys],
            np.array([index[language] for language, _ in keys], np.int32),
            [self._texts[key] for key in keys],
            {key: row for row, key in enumerate(keys) if key[1] in requested},
        )


class DiskPool:
    """Take candidates as `MemoryPool`, below `folder`; `arrange` leaves one file there, `CANDIDATES`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._spools: dict[str, _Spool] = {}
        self._progress = Progress(None, f"converting {name}", "candidate")

    @property
    def languages(self) -> set[str]:
        """Languages that have a candidate."""
        return self._spools.keys() - {_LEFT_OUT}

    def add(self, language: str, item: str, text: str, location: str) -> None:
        """Write a text; `arrange` refuses a repeated item."""
        if language not in self._spools:
            self._spools[language] = _Spool(self._folder / f"spool-{language}.arrow")
        self._progress.update(self._spools[language].add(item, text, location))

    def leave_out(self, item: str) -> None:
        """Note an item in a language that is left out."""
        self.add(_LEFT_OUT, item, "", "")

    def left_out(self, items: set[str]) -> set[str]:
        """Return those of `items` that were noted."""
        if _LEFT_OUT not in self._spools:
            return set()
        noted = (
            item for batch in self._spools[_LEFT_OUT].batches() for item in batch.column(_ITEM).to_pylist()
        )
        return items.intersection(noted)

    def arrange(self, languages: tuple[str, ...], requested: set[str]) -> ArrangedCandidates:
        """Return all candidates by language and id, and the rows of the requested items."""
        path = self._folder / CANDIDATES
        sizes = dict.fromkeys(languages, 0)
        rows: dict[tuple[str, str], int] = {}
        with StoredTextsWriter(path) as writer:
            for language in languages:
                if language in self._spools:
                    items, position = _sorted_items(language, self._spools[language])
                    is_requested = pc.is_in(items, pa.array(sorted(requested), items.type))
                    start = sum(sizes.values())
                    for row in np.flatnonzero(is_requested.to_numpy(zero_copy_only=False)).tolist():
                        rows[language, items[row].as_py()] = start + row
                    del items
                    sizes[language] = len(position)
                    self._write_sorted(language, position, writer)
        for spool in self._spools.values():
            spool.remove()
        self._progress.close()
        language_of = np.repeat(np.arange(len(languages), dtype=np.int32), list(sizes.values()))
        return ArrangedCandidates(StoredTexts(path, ID), language_of, StoredTexts(path, TEXT), rows)

    def _write_sorted(self, language: str, position: NDArray[np.int64], writer: StoredTextsWriter) -> None:
        """Write a language's candidates; row i of its spool goes to `position[i]` of the language."""
        spool = self._spools[language]
        num_parts = min(_MOST_PARTS, 1 + spool.num_bytes // _PART_BYTES)
        per_part = -(-len(position) // num_parts)
        parts = [self._folder / f"part-{number}.arrow" for number in range(num_parts)]
        with ExitStack() as files:
            writers = [files.enter_context(_new_stream(path, _PART)) for path in parts]
            first = 0
            batches = spool.batches()
            while some := list(islice(batches, _WRITES_PER_READ)):
                table = pa.Table.from_batches(some)
                target = position[first : first + table.num_rows]
                first += table.num_rows
                by_part = np.argsort(target // per_part, kind="stable")
                table = table.set_column(2, _LOCATION, pa.array(target)).take(pa.array(by_part)).cast(_PART)
                edges = np.searchsorted(target[by_part] // per_part, np.arange(num_parts + 1)).tolist()
                for number, (a, b) in enumerate(pairwise(edges)):
                    if a < b:
                        writers[number].write_table(table.slice(a, b - a))
        for path in parts:
            with pa.OSFile(str(path), "rb") as source:
                table = pa.ipc.open_stream(source).read_all()
            table = table.take(pc.sort_indices(table[_LOCATION]))
            writer.append(pc.binary_join_element_wise(f"{language}_", table[_ITEM], ""), table[TEXT])
            path.unlink()


class _Spool:
    """Items, texts and locations of one language in the order of reading."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = ExitStack()
        self._writer = self._files.enter_context(_new_stream(path, _SPOOL))
        self._rows: list[tuple[str, str, str]] = []
        self._characters = 0
        self.num_bytes = 0

    def add(self, item: str, text: str, location: str) -> int:
        """Add a row; return how many rows were written to the file now."""
        self._rows.append((item, text, location))
        self._characters += len(text)
        if len(self._rows) < _ROWS_PER_WRITE and self._characters < _CHARACTERS_PER_WRITE:
            return 0
        return self._write()

    def _write(self) -> int:
        written = len(self._rows)
        if written:
            columns = [pa.array(column, pa.string()) for column in zip(*self._rows, strict=True)]
            batch = pa.record_batch(columns, schema=_SPOOL)
            self._writer.write_batch(batch)
            self.num_bytes += batch.nbytes
        self._rows, self._characters = [], 0
        return written

    def batches(self) -> Iterator[Any]:
        """Yield the rows; afterwards none can be added."""
        self._write()
        self._files.close()
        with pa.OSFile(str(self._path), "rb") as source:
            yield from pa.ipc.open_stream(source)

    def remove(self) -> None:
        self._files.close()
        self._path.unlink()


def _new_stream(path: Path, schema: Any) -> Any:
    return pa.ipc.new_stream(str(path), schema)


def _sorted_items(language: str, spool: _Spool) -> tuple[Any, NDArray[np.int64]]:
    """Return the items in order of code points, and the position of each row of the spool among them."""
    batches, columns = spool.batches(), []
    while some := list(islice(batches, _WRITES_PER_READ)):  # a copy: a column alone would keep its batch
        columns.append(pa.concat_arrays([batch.column(_ITEM) for batch in some]))
    items = pc.cast(pa.chunked_array(columns, pa.string()), pa.large_string()).combine_chunks()
    order = pc.sort_indices(items)
    items = items.take(order)
    order = order.to_numpy().astype(np.int64)
    repeated = np.flatnonzero(pc.equal(items[1:], items[:-1]).to_numpy(zero_copy_only=False))
    if len(repeated):
        row = max(order[repeated[0]], order[repeated[0] + 1])
        locations: Iterable[Any] = (
            location for batch in spool.batches() for location in batch.column(_LOCATION)
        )
        raise _repeated(language, items[repeated[0]].as_py(), next(islice(locations, row, None)).as_py())
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order))
    return items, position


def _repeated(language: str, item: str, location: str) -> UserError:
    return UserError(location, f"candidate {item!r} occurs twice in {language!r}", "ids must be unique")


CandidatePool = MemoryPool | DiskPool
