"""Examples for rows whose stratum has no group left that is not in the batch.

Examples of one rare set of languages make a stratum of their own, in the extreme of one example, and a batch
can ask it for a row more than it has, or for a group that another stratum has given already. Such a row
keeps what the settings speak of, its dataset and its language pair, and borrows the example:

1. from any stratum of its stream that has that pair in that dataset, drawn as rows of the pair are: a
   stratum by its share, an example of it evenly;
2. where the batch holds all groups of the pair, from the whole stream, with a pair of the example's own.

A stream of one language lends in that language only, so a monolingual batch stays one. What capacity.py
lets pass finds an example: a stream has a group for every row. In data without rare sets nothing is lent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Floats, Int64s, below, derive_key, hash64, uniform
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Stream

_ROUNDS = 32


@dataclass(frozen=True)
class Lender:
    """Lends examples between the strata of each stream."""

    streams: list[Stream]
    service: list[int]  # the streams, fewest groups first
    cells: Cells
    pool: NDArray[np.integer]
    example_group: NDArray[np.int64]

    def lend(
        self, example: Int64s, stream: Int64s, origin: Int64s, epoch: Int64s, key: int
    ) -> tuple[Int64s, Int64s]:
        """Return the examples, all there, and the pair of each row that keeps one; -1: the example's own.

        Args:
            example: (B,) no two of one group; -1 where one is lacking.
            stream: (B,) of each row.
            origin: (B,) an example of the row's stratum; its dataset and pair are kept.
            epoch: (B,) of each row.
            key: of the step.
        """
        example, pair = example.copy(), np.full(len(example), -1, np.int64)
        for number in np.unique(stream[example < 0]).tolist():
            rows = np.flatnonzero((stream == number) & (example < 0))
            own, joint = self.streams[number], self.streams[number].shares.joint
            cell = self.cells.of_example[origin[rows]]
            wanted = np.stack([self.cells.dataset[cell], own.pairs(origin[rows], cell, epoch[rows])])
            for dataset, one in np.unique(wanted, axis=1).T.tolist():
                alike = rows[(wanted[0] == dataset) & (wanted[1] == one)]
                weight = np.where(self.cells.dataset == dataset, joint.share[:, one], 0.0)
                self._draw(example, alike, own, weight, derive_key("pair", key))
                pair[alike] = np.where(example[alike] >= 0, one, -1)
            rows = rows[example[rows] < 0]
            self._draw(example, rows, own, joint.share.sum(axis=1), derive_key("stream", key))
        if (example < 0).any():
            self._serve_in_order(example, pair, stream, key)
        return example, pair

    def _draw(self, example: Int64s, rows: Int64s, stream: Stream, weight: Floats, key: int) -> None:
        """Give `rows` examples of the cells with weight (C,), whose groups are not in the batch yet."""
        if not len(rows):
            return
        used = weight > 0
        of_stratum = np.bincount(stream.stratum_of_cell[used], weight[used], len(stream.decks))
        strata = np.flatnonzero(of_stratum)
        ends = np.cumsum(of_stratum[strata])
        start = np.array([stream.decks[stratum].start for stratum in strata], np.int64)
        size = np.array([stream.decks[stratum].num_examples for stratum in strata], np.int64)
        for attempt in range(_ROUNDS):
            counter = 2 * (rows * _ROUNDS + attempt)
            at = np.searchsorted(ends, uniform(key, counter) * ends[-1], side="right")
            at = np.minimum(at, len(strata) - 1)
            found = self.pool[start[at] + below(key, counter + 1, size[at])].astype(np.int64)
            fits = used[self.cells.of_example[found]]
            rows = self._give(example, rows[fits], found[fits], rows)
            if not len(rows):
                return
        all_of_them = np.concatenate(
            [self.pool[first : first + count] for first, count in zip(start, size, strict=True)]
        ).astype(np.int64)
        self._give_any(example, rows, all_of_them[used[self.cells.of_example[all_of_them]]], key)

    def _give(self, example: Int64s, rows: Int64s, found: Int64s, wanting: Int64s) -> Int64s:
        """Put `found` into `rows` where it brings a new group; return those of `wanting` that lack one."""
        group = self.example_group[found]
        free = np.flatnonzero(~np.isin(group, self.example_group[example[example >= 0]]))
        once = free[np.unique(group[free], return_index=True)[1]]
        example[rows[once]] = found[once]
        return wanting[example[wanting] < 0]

    def _give_any(self, example: Int64s, rows: Int64s, candidates: Int64s, key: int) -> None:
        """Give `rows` any of the candidates whose groups are free; as many as there are."""
        groups, first = np.unique(self.example_group[candidates], return_index=True)
        free = np.flatnonzero(~np.isin(groups, self.example_group[example[example >= 0]]))
        free = free[np.argsort(hash64(key, groups[free]))][: len(rows)]
        example[rows[: len(free)]] = candidates[first[free]]

    def _serve_in_order(self, example: Int64s, pair: Int64s, stream: Int64s, key: int) -> None:
        """Fill anew, the stream with the fewest groups first: another has taken what it needs."""
        before = example.copy()
        example[:] = -1
        for number in self.service:
            rows = np.flatnonzero((stream == number) & (before >= 0))
            rows = self._give(example, rows, before[rows], np.flatnonzero(stream == number))
            if len(rows):
                pair[rows] = -1
                decks = self.streams[number].decks
                all_of_them = [self.pool[deck.start : deck.start + deck.num_examples] for deck in decks]
                self._give_any(example, rows, np.concatenate(all_of_them).astype(np.int64), key)
