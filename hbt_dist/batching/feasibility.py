"""Whether a corpus has the groups that global batches need, as many rows as they have.

Two things can be lacking, and only they are refused:

1. *Groups of a stream.* Every row of a slot can be served from any group of its stream (lending.py), so a
   stream needs one for each row of its slot and for each that slots served before it can take from it. For
   one kind per batch this is exact: B rows, B groups.
2. *Groups of a choice.* A choice is a dataset and a language pair, with a share of the rows. If some choices
   together ask for more rows per batch on average than there are groups that can give them, no plan can keep
   their shares (Hall's condition, with fractions; a maximum flow from choices over groups decides it). If
   not, rounding and chance are all that remains, and lending settles those row by row.

Data in which every stratum has enough groups beside those with fewer passes without the flow.

Letters: S strata, C cells, P pairs, D datasets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.counter_random import Floats, Int64s
from hbt_dist.batching.mixture import slots_of
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Stream, Streams, rows_of_entries

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Shortfall:
    """What is lacking: `choices` of a stream ask for more rows than there are groups."""

    stream: int
    rows: float  # per batch: on average for some choices, at most for the whole stream
    groups: int
    choices: NDArray[np.integer]  # (n, 2) dataset and pair
    whole_stream: bool


@dataclass(frozen=True)
class Capacity:
    """What the streams of a plan can serve."""

    corpus: PlanCorpus
    cells: Cells
    settings: BatchSettings
    streams: Streams

    def shortfall(self, global_batch_size: int | None = None) -> Shortfall | None:
        """Return what is lacking for batches of the settings' size, or of another one up to that."""
        settings = self.settings
        if global_batch_size is not None:
            settings = settings.model_copy(update={"global_batch_size": global_batch_size})
        rows = rows_of_entries(settings)
        for number, stream in enumerate(self.streams.each):
            needed, groups = self._needed(number, settings), self.num_groups[number]
            if needed > groups:
                share = self._choice_shares(stream)
                return Shortfall(number, needed, groups, np.argwhere(share > 0), True)
        for number, stream in enumerate(self.streams.each):
            lacking = self._lacking_choices(number, rows.get(stream.shares.entry, 0))
            if lacking is not None:
                return lacking
        return None

    def largest_batch(self) -> int:
        """Return the largest global batch below the settings' size that nothing is lacking for; 0: none."""
        low, high = 0, self.settings.global_batch_size
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.shortfall(middle) is None else (low, middle)
        return low

    @cached_property
    def num_groups(self) -> list[int]:
        """Groups of each stream; at least as many as a batch has rows where it has that many."""
        return [
            max(deck.num_groups for deck in stream.decks) if self._is_large(stream) else len(groups)
            for stream, groups in zip(self.streams.each, self._groups, strict=True)
        ]

    @property
    def service(self) -> list[int]:
        """The streams in the order in which they are served where groups are few."""
        return sorted(range(len(self.streams.each)), key=lambda number: (self.num_groups[number], number))

    def _is_large(self, stream: Stream) -> bool:
        return max(deck.num_groups for deck in stream.decks) >= self.settings.global_batch_size

    @cached_property
    def _groups(self) -> list[Int64s]:
        """The groups of each stream, sorted; none of a stream that has more than it ever needs."""
        none = np.empty(0, np.int64)
        group = np.asarray(self.corpus.example_group)
        return [
            none if self._is_large(stream) else np.unique(group[self._examples(stream)])
            for stream in self.streams.each
        ]

    def _examples(self, stream: Stream) -> Int64s:
        parts = [self.streams.pool[deck.start : deck.start + deck.num_examples] for deck in stream.decks]
        return np.concatenate(parts).astype(np.int64)

    def _needed(self, number: int, settings: BatchSettings) -> int:
        """Return the groups that rows of a stream, and of those served before it, can take from it."""
        stream = self.streams.each[number]
        if self._is_large(stream):
            return 0
        before = self.service[: self.service.index(number) + 1]
        needed, skipped_own = 0, False
        for slot in slots_of(settings):
            if not skipped_own and slot.entry in (None, stream.shares.entry):
                skipped_own = True
                needed += slot.max_rows
                continue
            shared = [
                len(np.intersect1d(self._groups[other], self._groups[number]))
                for other in before
                if self.streams.each[other].shares.entry == slot.entry
            ]
            needed += min(slot.max_rows, max(shared, default=0))
        return min(needed, settings.global_batch_size) if skipped_own else 0

    def _choice_shares(self, stream: Stream) -> Floats:
        """Return the share of each dataset and pair in a stream's rows: (D, P)."""
        share = stream.shares.joint.share
        out = np.zeros((len(self.corpus.datasets), share.shape[1]))
        np.add.at(out, self.cells.dataset, share)
        return out

    def _lacking_choices(self, number: int, rows: int) -> Shortfall | None:
        """Return the choices of a stream that are too much for its groups, if there are such."""
        stream = self.streams.each[number]
        if len(stream.decks) == 1 or _nested(stream, rows):
            return None
        demand = self._choice_shares(stream) * rows
        open_choice: Bools = np.asarray((demand > 0) & ~self._plenty(stream, rows))
        cell, group = self._scarce_groups(stream, open_choice)
        size = np.bincount(cell, minlength=len(self.cells.dataset))
        gives = stream.shares.joint.share > 0  # (C, P)
        rich = np.zeros(demand.shape, np.bool_)
        np.logical_or.at(rich, self.cells.dataset, gives & (size >= rows)[:, None])
        open_choice &= ~rich
        if not open_choice.any():
            return None
        choices = np.argwhere(open_choice)
        links = [
            np.flatnonzero(gives[:, pair] & (self.cells.dataset == dataset)) for dataset, pair in choices
        ]
        lacking = _beyond(demand[open_choice], links, cell, group, rows)
        if lacking is None:
            return None
        chosen, groups = lacking
        asked = float(demand[open_choice][chosen].sum())
        return Shortfall(number, asked, groups, choices[chosen], False)

    def _plenty(self, stream: Stream, rows: int) -> Bools:
        """Whether all cells of one large stratum serve a choice: (D, P); a quick look that may overlook."""
        share = stream.shares.joint.share
        out = np.zeros((len(self.corpus.datasets), share.shape[1]), np.bool_)
        for stratum, deck in enumerate(stream.decks):
            if deck.num_groups >= rows:
                cells = np.flatnonzero(stream.stratum_of_cell == stratum)
                datasets = np.unique(self.cells.dataset[cells])
                if len(datasets) == 1:
                    out[datasets[0]] |= (share[cells] > 0).all(axis=0)
        return out

    def _scarce_groups(self, stream: Stream, choices: Bools) -> tuple[Int64s, Int64s]:
        """Return (cell, group) of the examples that serve one of the choices (D, P), each once."""
        gives = stream.shares.joint.share > 0  # (C, P)
        serves: Bools = np.any(gives & choices[self.cells.dataset], axis=1)  # (C,)
        found = [np.empty(0, np.int64)]
        num_cells = len(serves)
        for stratum in np.unique(stream.stratum_of_cell[serves]).tolist():
            deck = stream.decks[stratum]
            rows = self.streams.pool[deck.start : deck.start + deck.num_examples]
            cell = self.cells.of_example[rows]
            rows, cell = rows[serves[cell]], cell[serves[cell]]
            found.append(np.asarray(self.corpus.example_group)[rows] * num_cells + cell)
        both = np.unique(np.concatenate(found))
        return both % num_cells, both // num_cells


def _nested(stream: Stream, rows: int) -> bool:
    """Whether each stratum has a group for all rows of its own and of those with as few groups.

    Then serving them from the one with the fewest groups on finds a group for every row, whatever groups
    they have in common.
    """
    share = np.diff(stream.bounds) / stream.bounds[-1]
    most = np.ceil(share * rows - 1e-9)
    groups = np.array([deck.num_groups for deck in stream.decks], np.int64)
    order = np.argsort(groups, kind="stable")
    total = np.cumsum(most[order])[np.searchsorted(groups[order], groups[order], side="right") - 1]
    return bool((np.minimum(total, rows) <= groups[order]).all())


def _beyond(
    demand: Floats, links: list[Int64s], cell: Int64s, group: Int64s, rows: int
) -> tuple[Bools, int] | None:
    """Return which choices ask for more rows than there are groups for them, and how many groups; or None.

    A flow runs source -> choice (its rows) -> cell -> group -> sink (one row). If it cannot carry all rows,
    the choices that the source still reaches are those that are too much for the groups they reach.

    Args:
        demand: (n,) rows of each choice.
        links: per choice, the cells that serve it.
        cell, group: of each example, each pair once.
        rows: of a batch.
    """
    cells, cell_number = np.unique(cell, return_inverse=True)
    groups, group_number = np.unique(group, return_inverse=True)
    unit = (2**31 - 1) // (rows + 1)  # flows are whole numbers of 32 bits
    asked = np.floor(demand * unit).astype(np.int64)
    first_cell, first_group = 1 + len(demand), 1 + len(demand) + len(cells)
    sink = first_group + len(groups)
    from_choice = np.repeat(np.arange(len(demand)), [len(one) for one in links])
    to_cell = np.searchsorted(cells, np.concatenate(links))
    edges = [
        (np.zeros(len(demand), np.int64), 1 + np.arange(len(demand)), asked),
        (1 + from_choice, first_cell + to_cell, np.full(len(to_cell), rows * unit)),
        (first_cell + cell_number, first_group + group_number, np.full(len(cell), rows * unit)),
        (first_group + np.arange(len(groups)), np.full(len(groups), sink), np.full(len(groups), unit)),
    ]
    tail, head, room = (np.concatenate(column) for column in zip(*edges, strict=True))
    network = csr_array((room.astype(np.int32), (tail, head)), shape=(sink + 1, sink + 1))
    flow = maximum_flow(network, 0, sink)
    if flow.flow_value >= asked.sum():
        return None
    residual = csr_array(network - flow.flow)
    residual.eliminate_zeros()
    reached = np.zeros(sink + 1, np.bool_)
    reached[breadth_first_order(residual, 0, return_predecessors=False)] = True
    return reached[1:first_cell], int(reached[first_group:sink].sum())
