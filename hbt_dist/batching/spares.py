"""Tell apart the groups that two parts of a global batch have in common.

Inside a stratum no group repeats (deck.py). Rows of different strata or sub-batches can meet in a group:
the row of the stratum with fewer groups keeps its place, the other gives way to a spare, a random example
of its own stratum whose group is not in the batch. Fully parallel data drawn by size, in one kind per
batch, has one stratum and never needs a spare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.keyed import Int64s, below, hash64
from hbt_dist.errors import UserError

if TYPE_CHECKING:
    from hbt_dist.batching.plan import BatchPlan
    from hbt_dist.batching.streams import Stream

_ROUNDS = 32


@dataclass(frozen=True)
class StratumTable:
    """All strata of all streams, flat."""

    first: Int64s  # (streams,) number of the first stratum of each stream
    stream: Int64s  # (strata,)
    start: Int64s  # (strata,) place of its deck in the pool
    num_examples: Int64s
    num_groups: Int64s
    max_rows: Int64s  # per draw of its stream

    @classmethod
    def of(cls, streams: list[Stream]) -> StratumTable:
        """Return the table of a plan's streams."""
        counts = np.array([len(stream.decks) for stream in streams], np.int64)
        decks = [deck for stream in streams for deck in stream.decks]
        return cls(
            first=np.cumsum(counts) - counts,
            stream=np.repeat(np.arange(len(streams)), counts),
            start=np.array([deck.start for deck in decks], np.int64),
            num_examples=np.array([deck.num_examples for deck in decks], np.int64),
            num_groups=np.array([deck.num_groups for deck in decks], np.int64),
            max_rows=np.concatenate([stream.max_rows for stream in streams]),
        )

    def check(self, plan: BatchPlan) -> None:
        """Refuse a plan in which a batch could lack spares.

        Strata are served from the one with the fewest groups on, so a stratum has enough groups if it has
        one for each of its own rows and of those served before it.
        """
        slots = plan.mixture.slots
        for stratum in np.argsort(self.num_groups, kind="stable"):
            own = int(self.stream[stratum])
            entry = plan.mixture.entry_of(own)
            other_rows, skipped_own = 0, False
            for slot in slots:
                if not skipped_own and slot.entry in (None, entry):
                    skipped_own = True
                    continue
                other_rows += self._served_before(stratum, slot.entry, plan)
            same = (self.stream == own) & (self.num_groups <= self.num_groups[stratum])
            needed = min(int(self.max_rows[same].sum()) + other_rows, plan.settings.global_batch_size)
            if needed > self.num_groups[stratum]:
                raise self._refusal(int(stratum), needed, plan)

    def _served_before(self, stratum: int, entry: int | None, plan: BatchPlan) -> int:
        """Return the most rows that a slot can take from strata with as few groups as this one."""
        most = 0
        for number in range(len(self.first)):
            if plan.mixture.entry_of(number) == entry:
                few = (self.stream == number) & (self.num_groups <= self.num_groups[stratum])
                most = max(most, int(self.max_rows[few].sum()))
        return most

    def _refusal(self, stratum: int, needed: int, plan: BatchPlan) -> UserError:
        shares = plan.streams[self.stream[stratum]].shares
        kind = plan.mixture.entries[shares.entry].kind
        cells = list(shares.strata(plan.cells)[stratum - self.first[self.stream[stratum]]])
        names = plan.corpus.languages
        used = np.flatnonzero(shares.joint.share[cells].sum(axis=0) > 0)
        pairs = [
            names[q] if q == p else f"{names[q]}-{names[p]}"
            for q, p in zip(shares.joint.question[used], shares.joint.passage[used], strict=True)
        ]
        datasets = sorted({plan.corpus.datasets[plan.cells.dataset[cell]] for cell in cells})
        listed = ", ".join(pairs[:6]) + (f" and {len(pairs) - 6} more" if len(pairs) > 6 else "")
        groups = int(self.num_groups[stratum])
        return UserError(
            "batches.global_batch_size",
            f"a {kind} batch ({listed}) can need {needed:,} rows from {', '.join(datasets)}, which has only "
            f"{groups:,} passages that may meet in a batch ({int(self.num_examples[stratum]):,} examples)",
            f"lower global_batch_size ({groups:,} at most if all rows\n"
            "come from there), give the language, pair or dataset less weight, leave it out, or add data",
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
    """Fill the batch stratum by stratum, fewest groups first, looking through all groups: slow, but sure."""
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
        example[lacking] = deck[first[free]]
        taken = np.union1d(taken, groups[free])
    return example
