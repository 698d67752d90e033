"""Draw the rows of a stream: the endless sequence that a slot of a global batch takes its rows from.

An entry of the mixture has one stream, or one per language (monolingual: the whole slot is in one language)
and per dataset (datasets.per: batch). Draw number T of a stream is a pure function of T:

1. *Strata.* Cells whose examples are drawn equally often form one stratum; fully parallel data drawn by size
   is one stratum. Systematic sampling deals the rows to strata: cumulated shares, shifted by a rotation that
   moves on by the golden ratio each draw. Draw T gives a stratum the whole numbers between its lower and its
   upper bound, both shifted by x(T). A half-open interval of width w holds floor(w) or ceil(w) of them at
   every shift; so a stratum takes floor(w) or ceil(w) rows in each draw, and so do neighbouring strata
   together: of a hundred strata that make 2 rows in all, no draw takes more than 2. The count over all
   earlier draws has a closed form (`floor_sum`).
2. *Rows.* Each stratum takes its next rows without replacement (epoch_order.py). An epoch of a stratum is the
   number of draws that its examples suffice for. The tail, less than one draw's rows, is left out and changes
   with the epoch. In a stratum of few rows next to larger strata the tail would be a large part; its epochs
   are
   counted by rows instead: an epoch ends with its last row, also inside a draw.
3. *Pairs.* A row's language pair is the quantile of frac(hash(example) + epoch * golden ratio) in the shares
   of its cell: independent between examples, and for one example evenly spread over the pairs by epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Floats, Int64s, derive_key, floor_sum, uniform
from hbt_dist.batching.epoch_order import Order, Stratum
from hbt_dist.batching.mixture import slots_of
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells, Joint, joint_share, one_pair_per_batch
from hbt_dist.batching.strata import build_strata
from hbt_dist.data.corpus.corpus import Corpus

_ROTATION_BITS = 32
_MODULUS = 1 << _ROTATION_BITS
_STEP = 2_654_435_769  # golden ratio * 2**32
_GOLDEN_RATIO = 0.6180339887498949
_STRAY = 3  # over the draws the count of a stratum deviates from its share by about this many rows
_FEW = 8  # an epoch of fewer draws than this is counted by rows


@dataclass(frozen=True)
class StreamShares:
    """What a stream is made of, before it has rows.

    `weight` is its probability among the streams of its entry.
    """

    entry: int
    weight: float
    joint: Joint

    def cell_sets(self, cells: Cells) -> list[tuple[int, ...]]:
        """Return the cells of each stratum: those drawn equally often per example."""
        share = self.joint.share.sum(axis=1)
        used = np.flatnonzero(share > 0)
        speed = share[used] / cells.num_examples[used]
        order = np.argsort(speed, kind="stable")
        ordered = speed[order]
        breaks = np.flatnonzero(ordered[1:] > ordered[:-1] * (1 + 1e-9)) + 1
        return [tuple(sorted(int(cell) for cell in part)) for part in np.split(used[order], breaks)]


def split_joint(
    entry: int, joint: Joint, corpus: Corpus, cells: Cells, settings: BatchSettings
) -> list[StreamShares]:
    """Return the streams of an entry: split by language if monolingual, by dataset if every batch has one."""
    each_pair = one_pair_per_batch(settings.entries()[entry], corpus)
    by_pair = [np.array([pair]) for pair in range(len(joint.question))] if each_pair else [slice(None)]
    by_cell: Sequence[NDArray[np.int64] | slice] = [slice(None)]
    if settings.datasets.per == "batch":
        by_cell = [np.flatnonzero(cells.dataset == dataset) for dataset in np.unique(cells.dataset)]
    streams = []
    for pair in by_pair:
        for rows in by_cell:
            share = np.zeros_like(joint.share[:, pair])
            share[rows] = joint.share[rows][:, pair]
            weight = float(share.sum())
            if weight > 0:
                part = Joint(joint.question[pair], joint.passage[pair], share / weight)
                streams.append(StreamShares(entry, weight, part))
    return streams


@dataclass(frozen=True)
class Rows:
    """Rows of one draw.

    A row has no example (pool_row is -1) if the count of its stratum goes beyond the end of an epoch, or if
    the stratum has fewer examples than rows.
    """

    stratum: Int64s
    pool_row: Int64s
    epoch: Int64s


@dataclass(frozen=True)
class Stream:
    """One stream with its rows; S strata."""

    shares: StreamShares
    rows: int  # per draw
    strata: list[Stratum]
    order: Order
    key: int
    bounds: Int64s  # (S + 1,) cumulated rows per draw, in units of 2**-32
    draws_per_epoch: Int64s  # (S,) where epochs are counted by draws
    few: NDArray[np.bool_]  # (S,) epochs are counted by rows
    stratum_of_cell: Int64s = field(repr=False)  # (C,) -1 where the stream has no row of it
    pair_cdf: Floats = field(repr=False)  # flat: index of the cell in `cells` + cumulated share of its pairs
    pair_of: Int64s = field(repr=False)  # flat: the pair
    pair_last: Int64s = field(repr=False)  # last index of each cell in the two above
    cell_index: Int64s = field(repr=False)  # (C,) number among the cells of this stream

    @classmethod
    def of(
        cls, shares: StreamShares, rows: int, strata: dict[tuple[int, ...], Stratum], cells: Cells, key: int
    ) -> Stream:
        """Return the stream of `rows` rows per draw."""
        cell_sets = shares.cell_sets(cells)
        chosen = [strata[members] for members in cell_sets]
        several = len(chosen) > 1
        cell_share = shares.joint.share.sum(axis=1)
        per_draw = np.array([cell_share[list(members)].sum() for members in cell_sets])
        inner = np.floor(np.cumsum(per_draw)[:-1] * rows * _MODULUS + 0.5).astype(np.int64)
        bounds = np.concatenate([[0], inner, [rows * _MODULUS]]).astype(np.int64)
        width = np.diff(bounds)
        most = -(-width // _MODULUS)
        # One row more than a stratum gives at a time. The batches of existing plans depend on it.
        spacing = np.minimum(most + several, rows)
        order = Order.of(chosen, spacing)
        few = (order.epoch_rows < _FEW * (most + _STRAY)) & several
        if few.any():
            order = Order.of(chosen, np.where(few, np.where(most > 1, most, 0), spacing))
        draws = (order.epoch_rows - _STRAY * several) / np.maximum(width / _MODULUS, 1e-12)
        stratum_of_cell, cell_index = np.full((2, len(cell_share)), -1, np.int64)
        for number, members in enumerate(cell_sets):
            stratum_of_cell[list(members)] = number
        used = np.flatnonzero(cell_share > 0)
        cell_index[used] = np.arange(len(used))
        pair_share = shares.joint.share[used]
        in_cell, pair_of = np.nonzero(pair_share)
        cumulated = np.cumsum(pair_share / pair_share.sum(axis=1, keepdims=True), axis=1)[in_cell, pair_of]
        return cls(
            shares, rows, chosen, order, key, bounds, np.maximum(draws.astype(np.int64), 1), few,
            stratum_of_cell, in_cell + cumulated, pair_of, np.cumsum(np.bincount(in_cell)) - 1, cell_index,
        )  # fmt: skip

    def counts_before(self, draws: Int64s) -> Int64s:
        """Return the rows of each stratum in the first `draws` draws: (..., S) -> (..., S)."""
        if len(self.strata) == 1:
            return draws * self.rows
        whole, part = self.bounds >> _ROTATION_BITS, self.bounds & (_MODULUS - 1)
        offset = self.key & (_MODULUS - 1)
        ends = np.stack([part[1:], part[:-1]])  # a count: below the upper bound less below the lower bound
        shifted = np.broadcast_arrays(draws, offset + ends.reshape(2, *[1] * (draws.ndim - 1), -1))
        below_end = floor_sum(shifted[0].copy(), _MODULUS, _STEP, shifted[1].copy())
        return np.diff(whole) * draws + below_end[0] - below_end[1]

    def draw(self, number: int) -> Rows:
        """Return the rows of draw `number`, stratum by stratum."""
        by_draws = number // self.draws_per_epoch
        now = np.full_like(by_draws, number)
        epoch_start, before, after = self.counts_before(
            np.stack([by_draws * self.draws_per_epoch, now, now + 1])
        )
        count, size = after - before, self.order.epoch_rows
        epoch = np.where(self.few, before // size, by_draws)
        start = np.where(self.few, before % size, np.minimum(before - epoch_start, size))
        fitting = np.minimum(size - start, count)
        over = np.where(self.few, np.minimum(count - fitting, size), 0)  # rows of the next epoch
        stratum, pool_row = self.order.take(self.key, epoch, start, fitting)
        parts = [(stratum, pool_row, epoch[stratum])]
        if over.any():
            stratum, pool_row = self.order.take(self.key, epoch + 1, np.zeros_like(start), over)
            parts.append((stratum, pool_row, epoch[stratum] + 1))
        lacking = np.repeat(np.arange(len(count)), count - fitting - over)
        parts.append((lacking, np.full(len(lacking), -1), (epoch + self.few)[lacking]))
        return Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def pairs(self, example: NDArray[np.integer], cell: NDArray[np.integer], epoch: Int64s) -> Int64s:
        """Return the index of the language pair of each row."""
        if len(self.shares.joint.question) == 1:
            return np.zeros(len(example), np.int64)
        quantile = uniform(derive_key("pair", self.key), example) + epoch * _GOLDEN_RATIO
        index = self.cell_index[cell]
        drawn = np.searchsorted(self.pair_cdf, index + quantile % 1.0, side="right")
        return self.pair_of[np.minimum(drawn, self.pair_last[index])]


@dataclass(frozen=True)
class Streams:
    """All streams of a plan with the examples they draw from."""

    shares: list[list[StreamShares]]  # by entry of the mixture
    each: list[Stream]
    pool: NDArray[np.integer]  # examples of all strata

    @classmethod
    def of(cls, corpus: Corpus, cells: Cells, settings: BatchSettings, seed: int) -> Streams:
        """Return the streams that a mixture draws from.

        Raises:
            UserError: the corpus has no example for an entry, or not what the weights name.
        """
        rows = rows_of_entries(settings)
        shares = [
            split_joint(index, joint_share(corpus, cells, settings, index), corpus, cells, settings)
            if entry.weight_extremes()[1] > 0 and index in rows
            else []  # an entry that never has rows
            for index, entry in enumerate(settings.entries())
        ]
        pool, strata = build_strata(
            corpus,
            cells,
            [members for group in shares for part in group for members in part.cell_sets(cells)],
        )
        each = [
            Stream.of(part, rows[part.entry], strata, cells, derive_key("rows", seed, part.entry, number))
            for group in shares
            for number, part in enumerate(group)
        ]
        return cls(shares, each, pool)


def rows_of_entries(settings: BatchSettings) -> dict[int, int]:
    """Return the rows of a slot of each entry of the mixture that has one."""
    rows: dict[int, int] = {}
    for slot in slots_of(settings):
        entries = range(len(settings.entries())) if slot.entry is None else [slot.entry]
        rows |= dict.fromkeys(entries, slot.max_rows)
    return rows
