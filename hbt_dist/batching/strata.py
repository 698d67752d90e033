"""Sort the examples of a corpus into strata, in blocks of bounded memory.

A stratum needs its examples by (size of their group in the stratum, group, example). The corpus is read three
times, a block at a time: to count the examples of each cell and range of groups; to list the rows by cell and
range (not needed if they come in that order); and, stratum by stratum, to count the sizes of groups and to
write each group to its class. Memory: below 100 MB for every size of the corpus, and more only for a group
of more than a million examples. Disk: 4 bytes (8 above 2**31) per example and stratum that has it, and 4 more
per example while it works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s
from hbt_dist.batching.epoch_order import Stratum
from hbt_dist.batching.shares import Cells
from hbt_dist.common.console import Progress
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.shared_arrays import Space, shared_array

BLOCK = 1 << 18  # rows that are sorted at a time
_VERSION = 1  # of the sorted file

Rows = NDArray[np.integer]
CellSet = tuple[int, ...]


def build_strata(
    corpus: Corpus, cells: Cells, cell_sets: Iterable[CellSet]
) -> tuple[Rows, dict[CellSet, Stratum]]:
    """Return the pool of examples and one stratum per set of cells; processes of a node share the pool.

    Args:
        corpus: source of the examples.
        cells: of the corpus.
        cell_sets: sets of cells, each a sorted tuple.
    """
    distinct = list(dict.fromkeys(cell_sets))
    dtype = row_type(corpus.num_examples)
    total = sum(int(cells.num_examples[list(members)].sum()) for members in distinct)
    pool, classes = shared_array(
        "plan",
        {"version": _VERSION, "corpus": corpus.fingerprint, "cells": distinct},
        corpus.folder,
        total * np.dtype(dtype).itemsize,
        lambda space: _Sorting(corpus, cells, space).sort(distinct, total),
    )
    strata, start = {}, 0
    for members, (size, groups) in zip(distinct, classes, strict=True):
        strata[members] = _stratum(np.array(size, np.int64), np.array(groups, np.int64), start)
        start += strata[members].num_examples
    return pool, strata


def row_type(num_rows: int) -> type[np.integer]:
    """Return the type of a row's number."""
    return np.int32 if num_rows < 2**31 else np.int64


def blocks(total: int) -> Iterator[slice]:
    """Yield slices that cover `total` rows."""
    for start in range(0, total, BLOCK):
        yield slice(start, min(start + BLOCK, total))


def scatter(rows: Rows, key: NDArray[np.integer], following: Int64s, out: Rows) -> None:
    """Append each of the `rows` to the list of its key in `out`.

    Args:
        rows: (n,) in the order in which a list has them.
        key: (n,) number of each row's list.
        following: where the next row of each list goes; moves on.
        out: all lists.
    """
    short = key.astype(np.uint16) if len(following) <= 2**16 else key  # numpy sorts 16 bits in linear time
    order = np.argsort(short, kind="stable")
    counts = np.bincount(key, minlength=len(following))
    out[np.repeat(following - (np.cumsum(counts) - counts), counts) + np.arange(len(rows))] = rows[order]
    following += counts


def _stratum(size: Int64s, groups: Int64s, start: int) -> Stratum:
    ends = start + np.cumsum(size * groups)
    return Stratum(size, groups, ends - size * groups, start, int(ends[-1]) - start, int(groups.sum()))


class _Sorting:
    """Sorts the examples of one corpus into `space`. Letters: C cells, R ranges of groups."""

    def __init__(self, corpus: Corpus, cells: Cells, space: Space) -> None:
        self._group, self._cells, self._space = np.asarray(corpus.example_group), cells, space
        self._total = len(self._group)
        self._type = row_type(self._total)
        # An eighth of a block each, or what 16 bits can number with the cells; at most 8 blocks.
        fine = min(8 * self._total // BLOCK, 2**16 // len(cells.num_examples))
        ranges = max(fine, self._total // (8 * BLOCK), 1)
        self._shift = max(0, (self._total - 1) // ranges).bit_length()
        self._num_ranges = ((self._total - 1) >> self._shift) + 1

    def sort(self, cell_sets: list[CellSet], total: int) -> tuple[Rows, list[tuple[list[int], list[int]]]]:
        """Return the sorted pool (total,), and sizes and number of groups of the classes of each stratum."""
        work = 2 * (self._total + total)
        with Progress(work, "sorting examples for the batch plan", "row", first_seconds=2.0) as progress:
            self._list_rows(progress)
            pool = self._space.empty("pool", total, self._type)
            classes, start = [], 0
            for members in cell_sets:
                stratum = self._count_classes(list(members), start, progress.update)
                self._write(pool, list(members), stratum, progress.update)
                classes.append((stratum.size.tolist(), stratum.groups.tolist()))
                start += stratum.num_examples
        self._space.remove("rows")
        return pool, classes

    def _list_rows(self, progress: Progress) -> None:
        """List the rows by cell and range of groups."""
        counts = np.zeros(len(self._cells.num_examples) * self._num_ranges, np.int64)
        last, ordered = 0, True
        for part in blocks(self._total):
            key = self._key(part)
            counts += np.bincount(key, minlength=len(counts))
            ordered = ordered and last <= key[0] and bool((key[1:] >= key[:-1]).all())
            last = key[-1]
            progress.update(len(key))
        following = np.cumsum(counts) - counts
        self._starts = np.append(following, self._total)
        self._counts = counts.reshape(-1, self._num_ranges)
        self._listed: Rows | None = None
        if ordered:
            progress.update(self._total)
            return
        self._listed = self._space.empty("rows", self._total, self._type)
        for part in blocks(self._total):
            rows = np.arange(part.start, part.stop, dtype=self._type)
            scatter(rows, self._key(part), following, self._listed)
            progress.update(len(rows))

    def _key(self, part: slice) -> Int64s:
        """Return cell and range of each row as one number; the last range is open."""
        number = np.minimum(self._group[part] >> self._shift, self._num_ranges - 1)
        return self._cells.of_example[part].astype(np.int64) * self._num_ranges + number

    def _blocks(self, members: list[int]) -> Iterator[Rows]:
        """Yield the rows of cells in blocks of successive groups."""
        number_of_block = np.cumsum(self._counts[members].sum(axis=0)) // BLOCK
        ends = np.append(np.flatnonzero(np.diff(number_of_block)) + 1, self._num_ranges)
        firsts = np.array(members) * self._num_ranges
        for first, last in zip(np.append(0, ends[:-1]), ends, strict=True):
            bounds = zip(self._starts[firsts + first], self._starts[firsts + last], strict=True)
            yield np.concatenate([self._rows(start, stop) for start, stop in bounds])

    def _rows(self, start: int, stop: int) -> Rows:
        """Return rows of the list."""
        if self._listed is None:
            return np.arange(start, stop, dtype=self._type)
        return self._listed[start:stop]

    def _count_classes(self, members: list[int], start: int, done: Callable[[int], None]) -> Stratum:
        totals: dict[int, int] = {}
        for rows in self._blocks(members):
            group = self._group[rows]
            low, high = (int(group.min()), int(group.max())) if len(group) else (0, 0)
            if high - low < 8 * len(group):
                sizes = np.bincount(group - low)
            else:
                sizes = np.unique(group, return_counts=True)[1]
            counts = np.bincount(sizes)
            for size in np.flatnonzero(counts[1:]).tolist():
                totals[size + 1] = totals.get(size + 1, 0) + int(counts[size + 1])
            done(len(rows))
        size, groups = np.array(sorted(totals.items()), np.int64).T
        return _stratum(size, groups, start)

    def _write(self, pool: Rows, members: list[int], stratum: Stratum, done: Callable[[int], None]) -> None:
        """Write the examples of a stratum by class, group and row."""
        following = dict(zip(stratum.size.tolist(), stratum.base.tolist(), strict=True))
        for listed in self._blocks(members):
            rows, group = sort_by_group(listed, self._group[listed])
            firsts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]])[: len(group)])
            sizes = np.diff(np.append(firsts, len(rows)))
            for size in np.flatnonzero(np.bincount(sizes)).tolist():
                of_class = firsts[sizes == size]
                sorted_rows = rows[of_class[:, None] + np.arange(size)].ravel()
                pool[following[size] : following[size] + len(sorted_rows)] = sorted_rows
                following[size] += len(sorted_rows)
            done(len(rows))


def sort_by_group(rows: Rows, group: Int64s) -> tuple[Rows, Int64s]:
    """Return rows and their groups by (group, row)."""
    if not len(rows):
        return rows, group
    low, bits = int(group.min()), int(rows.max()).bit_length()
    if (int(group.max()) - low).bit_length() + bits > 63:
        order = np.lexsort((rows, group))
        return rows[order], group[order]
    key = (group - low << bits) | rows
    key.sort()
    return (key & ((1 << bits) - 1)).astype(rows.dtype), (key >> bits) + low
