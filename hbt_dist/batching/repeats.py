"""Tell apart the groups that two parts of a global batch have in common.

Inside a stratum no group repeats (deck.py). Rows of different strata or sub-batches can meet in a group:
the row of the stratum with fewer groups keeps its place, the other gives way to a spare, a random example
of its own stratum whose group is not in the batch. A stratum can be too small to have one; then lending.py
looks further. Fully parallel data drawn by size, in one kind per batch, has one stratum and never needs a
spare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s, below, hash64

if TYPE_CHECKING:
    from hbt_dist.batching.streams import Stream

_ROUNDS = 32


@dataclass(frozen=True)
class StratumTable:
    """All strata of all streams, flat."""

    first: Int64s  # (streams,) number of the first stratum of each stream
    start: Int64s  # (strata,) place of its deck in the pool
    num_examples: Int64s
    num_groups: Int64s

    @classmethod
    def of(cls, streams: list[Stream]) -> StratumTable:
        """Return the table of a plan's streams."""
        counts = np.array([len(stream.decks) for stream in streams], np.int64)
        decks = [deck for stream in streams for deck in stream.decks]
        return cls(
            first=np.cumsum(counts) - counts,
            start=np.array([deck.start for deck in decks], np.int64),
            num_examples=np.array([deck.num_examples for deck in decks], np.int64),
            num_groups=np.array([deck.num_groups for deck in decks], np.int64),
        )


def replace_repeated(
    example: Int64s,
    stratum: Int64s,
    table: StratumTable,
    pool: NDArray[np.integer],
    example_group: NDArray[np.int64],
    key: int,
) -> Int64s:
    """Return the examples with spares where a group came before, or where there is no example (-1).

    Where a stratum has no group left that is not in the batch, -1 stays.

    Args:
        example: (B,) examples, -1 where one is lacking.
        stratum: (B,) stratum of each row in `table`.
        table: strata.
        pool: examples of all strata.
        example_group: (E,) group of each example.
        key: of the step.
    """
    present = example >= 0
    group = np.where(present, example_group[np.maximum(example, 0)], -1)
    order = np.argsort(table.num_groups[stratum], kind="stable")
    order = order[present[order]]
    taken, first = np.unique(group[order], return_index=True)
    if len(taken) == len(example):
        return example
    example = example.copy()
    is_open = np.ones(len(example), np.bool_)
    is_open[order[first]] = False
    rows = np.flatnonzero(is_open)
    for attempt in range(_ROUNDS):
        at = stratum[rows]
        spare = pool[table.start[at] + below(key, rows * _ROUNDS + attempt, table.num_examples[at])]
        spare_group = example_group[spare]
        place = np.minimum(np.searchsorted(taken, spare_group), len(taken) - 1)
        free = np.flatnonzero(taken[place] != spare_group) if len(taken) else np.arange(len(rows))
        _, once = np.unique(spare_group[free], return_index=True)
        good = free[once]
        example[rows[good]] = spare[good]
        taken = np.union1d(taken, spare_group[good])
        rows = np.delete(rows, good)
        if not len(rows):
            return example
    return _serve_in_order(example, rows, stratum, table, pool, example_group, key)


def _serve_in_order(
    example: Int64s,
    open_rows: Int64s,
    stratum: Int64s,
    table: StratumTable,
    pool: NDArray[np.integer],
    example_group: NDArray[np.int64],
    key: int,
) -> Int64s:
    """Fill the batch stratum by stratum, fewest groups first, looking through all groups: slow, but finds
    every one that is left."""
    example = example.copy()
    example[open_rows] = -1
    taken = np.empty(0, np.int64)
    for number in sorted(set(stratum.tolist()), key=lambda one: (table.num_groups[one], one)):
        rows = np.flatnonzero(stratum == number)
        has = rows[example[rows] >= 0]
        kept = has[~np.isin(example_group[example[has]], taken)]
        taken = np.union1d(taken, example_group[example[kept]])
        lacking = np.setdiff1d(rows, kept)
        if not len(lacking):
            continue
        deck = pool[table.start[number] : table.start[number] + table.num_examples[number]]
        groups, first = np.unique(example_group[deck], return_index=True)
        free = np.flatnonzero(~np.isin(groups, taken))
        free = free[np.argsort(hash64(key, free))][: len(lacking)]
        example[lacking] = -1
        example[lacking[: len(free)]] = deck[first[free]]
        taken = np.union1d(taken, groups[free])
    return example
