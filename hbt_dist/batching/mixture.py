"""Which stream feeds each slot of a global batch, as a pure function of the step.

A *slot* is a run of rows that share one draw: the whole batch (mixing: per_batch), or one sub-batch
(mixing: shares). A *stream* is what a slot can be fed from: crosslingual rows; monolingual rows in Finnish.
Besides the draw of a step this module counts how often a stream was drawn before it, which is the stream's
position. Counts are kept per block of 16,384 steps; the first look at step one million takes about 0.1 s,
later ones near it well under a millisecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import derive_key, uniform
from hbt_dist.batching.settings import BatchSettings, MixtureEntry

_BLOCK = 16_384


@dataclass(frozen=True)
class Slot:
    """A run of rows with one draw. `entry` is None where the draw includes the entry itself."""

    entry: int | None
    max_rows: int  # over all steps; the stream moves on by this many rows at each draw
    number: int  # of the slot within its entry
    siblings: int


def apportion(total: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return whole numbers that sum to `total`, proportional to the weights by largest remainder."""
    exact = total * weights / weights.sum()
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: total - int(counts.sum())]] += 1
    return counts


def slots_of(settings: BatchSettings) -> list[Slot]:
    """Return the slots of every global batch. An entry without weight has none."""
    batch, entries = settings.global_batch_size, settings.entries()
    if settings.mixing == "per_batch":
        return [Slot(None, batch, 0, 1)]
    lows, highs = np.array([entry.weight_extremes() for entry in entries]).T
    slots = []
    for index, entry in enumerate(entries):
        if highs[index] == 0:
            continue
        most = highs[index] / (highs[index] + lows.sum() - lows[index])
        constant = (lows == highs).all()
        rows = int(apportion(batch, highs)[index] if constant else min(batch, np.ceil(batch * most)))
        per_slot = -(-rows // entry.sub_batches)
        if per_slot:
            slots += [Slot(index, per_slot, number, entry.sub_batches) for number in range(entry.sub_batches)]
    return slots


class Mixture:
    """The draws of a plan.

    Args:
        settings: kinds, weights and mixing.
        stream_weights: per entry of the mixture, the weights of its streams (sum 1).
        seed: of the run.
    """

    def __init__(
        self, settings: BatchSettings, stream_weights: Sequence[NDArray[np.float64]], seed: int
    ) -> None:
        self.entries: list[MixtureEntry] = settings.entries()
        self._batch = settings.global_batch_size
        self._first = np.cumsum([0, *(len(weights) for weights in stream_weights)])
        self._cdfs = [_inner_bounds(weights) for weights in stream_weights]
        self.num_streams = int(self._first[-1])
        self._per_batch = settings.mixing == "per_batch"
        self.slots = slots_of(settings)
        self._kind_key = derive_key("kind", seed)
        self._stream_keys = [derive_key("stream", seed, number) for number in range(len(self.slots))]
        self._counted = np.zeros((1, self.num_streams), np.int64)  # row i: draws in the first i blocks

    def probabilities(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of each entry at each step: (n, entries), rows sum to 1."""
        weights = np.stack([entry.weight_at(steps) for entry in self.entries], axis=1)
        return weights / weights.sum(axis=1, keepdims=True)

    def rows_of_slots(self, step: int) -> NDArray[np.int64]:
        """Return the rows of each slot in the global batch of a step; they sum to the batch."""
        if self._per_batch:
            return np.array([self._batch], np.int64)
        rows = apportion(self._batch, self.probabilities(np.array([step], np.int64))[0])  # by entry
        return np.array(
            [
                rows[slot.entry] // slot.siblings + (slot.number < rows[slot.entry] % slot.siblings)
                for slot in self.slots
            ],
            np.int64,
        )

    def streams(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the stream that feeds each slot at each step: (n, slots)."""
        out = np.empty((len(steps), len(self.slots)), np.int64)
        for number, slot in enumerate(self.slots):
            draws = uniform(self._stream_keys[number], steps)
            if slot.entry is not None:
                out[:, number] = self._first[slot.entry] + np.searchsorted(
                    self._cdfs[slot.entry], draws, side="right"
                )
                continue
            bounds = _inner_bounds(self.probabilities(steps))
            kinds = (uniform(self._kind_key, steps)[:, None] >= bounds).sum(axis=1)
            for entry, cdf in enumerate(self._cdfs):
                rows = kinds == entry
                out[rows, number] = self._first[entry] + np.searchsorted(cdf, draws[rows], side="right")
        return out

    def draws_before(self, step: int) -> NDArray[np.int64]:
        """Return how often each stream was drawn in steps 0..step-1: (streams,)."""
        block = step // _BLOCK
        while len(self._counted) <= block:
            start = (len(self._counted) - 1) * _BLOCK
            counts = self._count(start, start + _BLOCK)
            self._counted = np.concatenate([self._counted, self._counted[-1:] + counts])
        return self._counted[block] + self._count(block * _BLOCK, step)

    def _count(self, start: int, stop: int) -> NDArray[np.int64]:
        drawn = self.streams(np.arange(start, stop, dtype=np.int64))
        return np.bincount(drawn.ravel(), minlength=self.num_streams).astype(np.int64)


def _inner_bounds(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the bounds between neighbours on [0, 1), along the last axis; weight 0 is never drawn."""
    bounds = np.cumsum(weights, axis=-1)[..., :-1]
    bounds[bounds >= 1.0 - 1e-12] = 2.0  # only zero weights (and rounding) come after
    return bounds
