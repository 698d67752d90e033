"""Replace examples whose group is already in the global batch, and fill rows that have no example.

Inside a stratum no group repeats (epoch_order.py). Rows of different strata or sub-batches can meet in a
group: the row of the stratum with fewer groups keeps its example. The row of the larger stratum gets a
replacement, from the first of these sources that has a free group (a group that is not in the batch):

1. a random example of its stratum;
2. a random example of its stream with the dataset and language pair of the row, drawn by the shares of the
   pair;
3. any example of its stream, with a language pair of that example.

A rare stratum, in the extreme of one example, needs sources 2 and 3: a batch can need one row more of it than
it has groups. A stream of one language replaces in that language only, so a monolingual batch stays
monolingual. A plan that passes feasibility.py finds an example for every row. Fully parallel data drawn by
size, with one kind per batch, has one stratum and never needs a replacement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Floats, Int64s, below, derive_key, hash64, uniform
from hbt_dist.batching.epoch_order import Stratum
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Stream

_ROUNDS = 32  # random draws per row before all candidates are listed


@dataclass(frozen=True)
class Repeats:
    """Replaces repeated groups in the global batches of a plan. B rows."""

    streams: list[Stream]
    fewest_first: list[int]  # the streams, those with the fewest groups first
    cells: Cells
    pool: NDArray[np.integer]
    example_group: NDArray[np.int64]

    @cached_property
    def _strata(self) -> list[Stratum]:
        return [stratum for stream in self.streams for stratum in stream.strata]

    @cached_property
    def _columns(self) -> Int64s:
        """(3, strata) start, examples and groups of each stratum."""
        return np.array([(s.start, s.num_examples, s.num_groups) for s in self._strata], np.int64).T

    def replace(
        self, example: Int64s, stratum: Int64s, stream: Int64s, epoch: Int64s, key: int
    ) -> tuple[Int64s, Int64s]:
        """Return examples of B different groups, and the language pair of the rows that keep theirs, else -1.

        Args:
            example: (B,) -1 where a row has no example.
            stratum: (B,) number of the row's stratum in its stream.
            stream: (B,) stream of the row.
            epoch: (B,) epoch of the row's stratum.
            key: of the step.
        """
        pair = np.full(len(example), -1, np.int64)
        firsts = np.cumsum([0, *(len(part.strata) for part in self.streams)])
        stratum = stratum + firsts[stream]  # number among the strata of all streams
        start, num_examples, num_groups = self._columns
        order = np.argsort(num_groups[stratum], kind="stable")
        order = order[example[order] >= 0]
        kept = order[np.unique(self.example_group[example[order]], return_index=True)[1]]
        if len(kept) == len(example):
            return example, pair
        filled = np.full_like(example, -1)
        filled[kept] = example[kept]
        rows = np.flatnonzero(filled < 0)
        for attempt in range(_ROUNDS):
            of_row = stratum[rows]
            drawn = start[of_row] + below(key, rows * _ROUNDS + attempt, num_examples[of_row])
            rows = self._give(filled, rows, self.pool[drawn].astype(np.int64), rows)
            if not len(rows):
                return filled, pair
        numbers = sorted(set(stratum.tolist()), key=lambda number: (num_groups[number], number))
        self._refill(filled, stratum, {number: [self._strata[number]] for number in numbers}, key, "index")
        if (filled >= 0).all():
            return filled, pair
        drawn = below(derive_key("origin", key), np.arange(len(example)), num_examples[stratum])
        origin = np.where(example >= 0, example, self.pool[start[stratum] + drawn]).astype(np.int64)
        key = derive_key("lend", key)
        self._draw_from_streams(filled, pair, stream, origin, epoch, key)
        if (filled < 0).any():  # a stream has taken the groups that a stream with fewer groups needs
            strata = {number: self.streams[number].strata for number in self.fewest_first}
            changed = self._refill(filled, stream, strata, key, "group")
            pair[changed] = -1
        return filled, pair

    def _draw_from_streams(
        self, example: Int64s, pair: Int64s, stream: Int64s, origin: Int64s, epoch: Int64s, key: int
    ) -> None:
        """Fill rows from their stream, if possible with the dataset and the pair of `origin`."""
        for number in np.unique(stream[example < 0]).tolist():
            source, joint = self.streams[number], self.streams[number].shares.joint
            rows = np.flatnonzero((stream == number) & (example < 0))
            cell = self.cells.of_example[origin[rows]]
            choices = np.stack([self.cells.dataset[cell], source.pairs(origin[rows], cell, epoch[rows])])
            for choice in np.unique(choices, axis=1).T:
                alike = rows[(choices == choice[:, None]).all(axis=0)]
                weight = np.where(self.cells.dataset == choice[0], joint.share[:, choice[1]], 0.0)
                self._draw(example, alike, source, weight, derive_key("pair", key))
                pair[alike] = np.where(example[alike] >= 0, choice[1], -1)
            rows = rows[example[rows] < 0]
            if len(rows):
                self._draw(example, rows, source, joint.share.sum(axis=1), derive_key("stream", key))

    def _draw(self, example: Int64s, rows: Int64s, stream: Stream, weight: Floats, key: int) -> None:
        """Give `rows` examples of the cells with weight (C,): a stratum by its weight, an example evenly."""
        used = weight > 0
        of_stratum = np.bincount(stream.stratum_of_cell[used], weight[used], len(stream.strata))
        numbers = np.flatnonzero(of_stratum)
        ends = np.cumsum(of_stratum[numbers])
        strata = [stream.strata[number] for number in numbers]
        start, size = np.array([(part.start, part.num_examples) for part in strata], np.int64).T
        for attempt in range(_ROUNDS):
            counter = 2 * (rows * _ROUNDS + attempt)
            drawn = np.searchsorted(ends, uniform(key, counter) * ends[-1], side="right")
            drawn = np.minimum(drawn, len(strata) - 1)
            candidates = self.pool[start[drawn] + below(key, counter + 1, size[drawn])].astype(np.int64)
            fits = used[self.cells.of_example[candidates]]
            rows = self._give(example, rows[fits], candidates[fits], rows)
            if not len(rows):
                return
        candidates = self._examples(strata)
        self._give_any(example, rows, candidates[used[self.cells.of_example[candidates]]], key, "group")

    def _examples(self, strata: list[Stratum]) -> Int64s:
        return np.concatenate([part.examples(self.pool) for part in strata])

    def _give(self, example: Int64s, rows: Int64s, candidates: Int64s, lacking: Int64s) -> Int64s:
        """Put candidates of free groups into their rows; return the rows of `lacking` that stay empty."""
        group = self.example_group[candidates]
        free = np.flatnonzero(~np.isin(group, self.example_group[example[example >= 0]]))
        once = free[np.unique(group[free], return_index=True)[1]]
        example[rows[once]] = candidates[once]
        return lacking[example[lacking] < 0]

    def _give_any(
        self, example: Int64s, rows: Int64s, candidates: Int64s, key: int, order: Literal["index", "group"]
    ) -> None:
        """Give `rows` candidates of free groups, in the order of a hash of the group or of its index."""
        groups, first = np.unique(self.example_group[candidates], return_index=True)
        free = np.flatnonzero(~np.isin(groups, self.example_group[example[example >= 0]]))
        free = free[np.argsort(hash64(key, groups[free] if order == "group" else free))][: len(rows)]
        example[rows[: len(free)]] = candidates[first[free]]

    def _refill(
        self,
        example: Int64s,
        part: Int64s,
        strata: Mapping[int, list[Stratum]],
        key: int,
        order: Literal["index", "group"],
    ) -> Int64s:
        """Fill the batch part by part, in the order of `strata`; list all groups of a part that lacks some.

        A part (B,) is a stratum or a stream. Returns the rows whose example was not kept.
        """
        before = example.copy()
        example[:] = -1
        changed = []
        for number, sources in strata.items():
            rows = np.flatnonzero(part == number)
            present = rows[before[rows] >= 0]
            rows = self._give(example, present, before[present], rows)
            if len(rows):
                self._give_any(example, rows, self._examples(sources), key, order)
                changed.append(rows)
        return np.concatenate(changed)
