"""A stream: the endless sequence of rows that a slot of a global batch draws from.

An entry of the mixture has one stream, or one per language (monolingual: the whole slot is in one language)
and per dataset (datasets.per: batch). Draw number T of a stream is a pure function of T:

1. *Strata.* Cells whose examples are drawn equally often form one stratum; fully parallel data drawn by size
   is one stratum. Rows are dealt to strata by systematic sampling: cumulated shares, shifted by a rotation
   that moves on by the golden ratio each draw. A stratum's count is within 1 of its share in every draw, and
   its count over all earlier draws has a closed form (`floor_sum`).
2. *Rows.* Each stratum takes its next rows without replacement (deck.py). An epoch of a stratum is the
   number of draws that its examples suffice for; the tail, less than one draw's rows, is left out and is
   another one in every epoch.
3. *Pairs.* A row's language pair is the quantile of frac(hash(example) + epoch * golden ratio) in the shares
   of its cell: independent between examples, and evenly spread over the pairs from epoch to epoch for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.config import BatchSettings
from hbt_dist.batching.deck import Deck, Order
from hbt_dist.batching.keyed import Floats, Int64s, derive_key, floor_sum, uniform
from hbt_dist.batching.weights import Cells, Joint

_ROTATION_BITS = 32
_MODULUS = 1 << _ROTATION_BITS
_STEP = 2_654_435_769  # golden ratio * 2**32
_GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True)
class StreamShares:
    """What a stream is made of, before it has rows.

    `weight` is its probability among the streams of its entry.
    """

    entry: int
    weight: float
    joint: Joint

    def strata(self, cells: Cells) -> list[tuple[int, ...]]:
        """Return the cells of each stratum: those drawn equally often per example."""
        share = self.joint.share.sum(axis=1)
        used = np.flatnonzero(share > 0)
        speed = share[used] / cells.num_examples[used]
        order = np.argsort(speed, kind="stable")
        ordered = speed[order]
        breaks = np.flatnonzero(ordered[1:] > ordered[:-1] * (1 + 1e-9)) + 1
        return [tuple(sorted(int(cell) for cell in part)) for part in np.split(used[order], breaks)]


def split_joint(entry: int, joint: Joint, cells: Cells, settings: BatchSettings) -> list[StreamShares]:
    """Return the streams of an entry: split by language if monolingual, by dataset if every batch has one."""
    monolingual = settings.entries()[entry].kind == "monolingual"
    by_pair = [np.array([pair]) for pair in range(len(joint.question))] if monolingual else [slice(None)]
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
    """Rows of one draw; S strata.

    Where the count of a stratum strays beyond the end of its epoch a row lacks an example: pool_row is -1.
    """

    stratum: Int64s
    pool_row: Int64s
    epoch: Int64s  # (S,)


@dataclass(frozen=True)
class Stream:
    """One stream with its rows; S strata."""

    shares: StreamShares
    rows: int  # per draw
    decks: list[Deck]
    order: Order
    key: int
    bounds: Int64s  # (S + 1,) cumulated rows per draw, in units of 2**-32
    draws_per_epoch: Int64s  # (S,)
    max_rows: Int64s  # (S,) per draw
    pair_cdf: Floats = field(repr=False)  # flat: index of the cell in `cells` + cumulated share of its pairs
    pair_of: Int64s = field(repr=False)  # flat: the pair
    pair_last: Int64s = field(repr=False)  # last place of each cell in the two above
    cell_index: Int64s = field(repr=False)  # (C,) number among the cells of this stream

    @classmethod
    def of(
        cls, shares: StreamShares, rows: int, decks: dict[tuple[int, ...], Deck], cells: Cells, key: int
    ) -> Stream:
        """Return the stream of `rows` rows per draw."""
        strata = shares.strata(cells)
        cell_share = shares.joint.share.sum(axis=1)
        per_draw = np.array([cell_share[list(stratum)].sum() for stratum in strata])
        inner = np.floor(np.cumsum(per_draw)[:-1] * rows * _MODULUS + 0.5).astype(np.int64)
        bounds = np.concatenate([[0], inner, [rows * _MODULUS]]).astype(np.int64)
        width = np.diff(bounds)
        max_rows = np.minimum(-(-width // _MODULUS) + (len(strata) > 1), rows)
        chosen = [decks[stratum] for stratum in strata]
        order = Order.of(chosen, max_rows)
        slack = 0 if len(strata) == 1 else 3  # the count strays from its share by about this much
        draws = (order.epoch_rows - slack) / np.maximum(width / _MODULUS, 1e-12)
        used = np.flatnonzero(cell_share > 0)
        cell_index = np.full(len(cell_share), -1, np.int64)
        cell_index[used] = np.arange(len(used))
        pair_share = shares.joint.share[used]
        in_cell, pair_of = np.nonzero(pair_share)
        cumulated = np.cumsum(pair_share / pair_share.sum(axis=1, keepdims=True), axis=1)[in_cell, pair_of]
        return cls(
            shares, rows, chosen, order, key, bounds, np.maximum(draws.astype(np.int64), 1), max_rows,
            in_cell + cumulated, pair_of, np.cumsum(np.bincount(in_cell)) - 1, cell_index,
        )  # fmt: skip

    def counts_before(self, draws: Int64s) -> Int64s:
        """Return the rows of each stratum in the first `draws` draws: (..., S) -> (..., S)."""
        if len(self.max_rows) == 1:
            return draws * self.rows
        whole, part = self.bounds >> _ROTATION_BITS, self.bounds & (_MODULUS - 1)
        offset = self.key & (_MODULUS - 1)
        ends = np.stack(
            [part[1:], part[:-1]]
        )  # a count is that below its upper bound less that below its lower
        shifted = np.broadcast_arrays(draws, offset + ends.reshape(2, *[1] * (draws.ndim - 1), -1))
        below_end = floor_sum(shifted[0].copy(), _MODULUS, _STEP, shifted[1].copy())
        return np.diff(whole) * draws + below_end[0] - below_end[1]

    def draw(self, number: int) -> Rows:
        """Return the rows of draw `number`, stratum by stratum."""
        epoch = number // self.draws_per_epoch
        now = np.full_like(epoch, number)
        moments = np.stack([epoch * self.draws_per_epoch, now, now + 1])
        epoch_start, before, after = self.counts_before(moments)
        count = after - before
        start = np.minimum(before - epoch_start, self.order.epoch_rows)
        fitting = np.minimum(self.order.epoch_rows - start, count)
        stratum, pool_row = self.order.take(self.key, epoch, start, fitting)
        lacking = np.repeat(np.arange(len(count)), count - fitting)
        return Rows(
            np.concatenate([stratum, lacking]), np.concatenate([pool_row, np.full(len(lacking), -1)]), epoch
        )

    def pairs(self, example: NDArray[np.integer], cell: NDArray[np.integer], epoch: Int64s) -> Int64s:
        """Return the index of the language pair of each row."""
        if len(self.shares.joint.question) == 1:
            return np.zeros(len(example), np.int64)
        quantile = uniform(derive_key("pair", self.key), example) + epoch * _GOLDEN_RATIO
        index = self.cell_index[cell]
        place = np.searchsorted(self.pair_cdf, index + quantile % 1.0, side="right")
        return self.pair_of[np.minimum(place, self.pair_last[index])]
