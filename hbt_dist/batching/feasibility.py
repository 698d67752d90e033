"""Reject batches that a corpus cannot fill: each row of a batch needs a group of its stream.

repeats.py can serve a row of a slot from every group of its stream. So a stream needs one group for each row
of its slot, and one for each row of the slots served before it that can take a group from it. For one kind
per batch this is exact: B rows need B groups. Shares of pairs and datasets are not part of this check:
`shares_missed` of inspection.py names those that the plan does not reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hbt_dist.batching.counter_random import Int64s
from hbt_dist.batching.mixture import slots_of
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Stream, Streams
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus

_NAMED = 6


@dataclass(frozen=True)
class StreamGroups:
    """The groups of each stream, against the rows that batches take from it."""

    corpus: Corpus
    cells: Cells
    settings: BatchSettings
    streams: Streams

    @cached_property
    def sizes(self) -> list[int]:
        """Groups of each stream; a lower bound where it is not below the global batch size."""
        return [
            max(stratum.num_groups for stratum in stream.strata) if self._is_large(stream) else len(groups)
            for stream, groups in zip(self.streams.each, self._groups, strict=True)
        ]

    @property
    def fewest_first(self) -> list[int]:
        """The streams by their number of groups: the order in which they are served where groups are few."""
        return sorted(range(len(self.sizes)), key=lambda number: (self.sizes[number], number))

    def lacking(self, global_batch_size: int) -> tuple[int, int] | None:
        """Return the first stream with too few groups for batches of a size, and the groups it needs."""
        settings = self.settings.model_copy(update={"global_batch_size": global_batch_size})
        for number, size in enumerate(self.sizes):
            needed = self._needed(number, settings)
            if needed > size:
                return number, needed
        return None

    @cached_property
    def _groups(self) -> list[Int64s]:
        """The groups of each stream, sorted; empty for a stream that has more than it ever needs."""
        group, pool = np.asarray(self.corpus.example_group), self.streams.pool
        return [
            np.empty(0, np.int64)
            if self._is_large(stream)
            else np.unique(group[np.concatenate([stratum.examples(pool) for stratum in stream.strata])])
            for stream in self.streams.each
        ]

    def _is_large(self, stream: Stream) -> bool:
        return max(part.num_groups for part in stream.strata) >= self.settings.global_batch_size

    def _needed(self, number: int, settings: BatchSettings) -> int:
        """Return the most groups that rows of a stream, and of the streams served before it, take from it."""
        stream = self.streams.each[number]
        slots = slots_of(settings)
        slot = next((slot for slot in slots if slot.entry in (None, stream.shares.entry)), None)
        if self._is_large(stream) or slot is None:
            return 0
        needed = slot.max_rows
        before = self.fewest_first[: self.fewest_first.index(number) + 1]
        for further in slots:
            shared = [
                len(np.intersect1d(self._groups[earlier], self._groups[number]))
                for earlier in before
                if further != slot and self.streams.each[earlier].shares.entry == further.entry
            ]
            needed += min(further.max_rows, max(shared, default=0))
        return min(needed, settings.global_batch_size)


def check_feasible(groups: StreamGroups) -> None:
    """Reject a plan whose batches the corpus cannot fill.

    Raises:
        UserError: names the rows that lack groups, the number of groups, and the remedies.
    """
    settings, corpus = groups.settings, groups.corpus
    lacking = groups.lacking(settings.global_batch_size)
    if lacking is None:
        return
    shares, size = groups.streams.each[lacking[0]].shares, groups.sizes[lacking[0]]
    largest = largest_batch(groups)
    # A batch of one row without hard negatives has nothing to contrast with.
    usable = largest > 1 or (largest and settings.hard_negatives.count)
    remedies = [f"lower global_batch_size to {largest:,} at most"] if usable else []
    if settings.datasets.per == "batch":
        remedies.append("set batches.datasets.per: row")
    joint, names = shares.joint, corpus.languages
    datasets = sorted({corpus.datasets[d] for d in groups.cells.dataset[joint.share.any(axis=1)]})
    pairs = [
        names[q] if q == p else f"{names[q]}-{names[p]}"
        for q, p in zip(joint.question, joint.passage, strict=True)
    ]
    more_data = "add data, or leave these languages out"
    remedies.append(more_data if size > 1 else "add data: a batch needs at least two such passages")
    raise UserError(
        "batches.global_batch_size",
        f"a batch can need {lacking[1]:,} {settings.entries()[shares.entry].kind} rows ({_listed(pairs)}), "
        f"for which {_listed(datasets)} has only {counted(size, 'passage')} that may meet in a batch",
        ", or\n".join(remedies),
    )


def largest_batch(groups: StreamGroups) -> int:
    """Return the largest batch that the corpus can fill, at most the settings' size; 0 if it fills none."""
    largest, above = 0, groups.settings.global_batch_size + 1
    while above - largest > 1:
        middle = (largest + above) // 2
        largest, above = (middle, above) if groups.lacking(middle) is None else (largest, middle)
    return largest


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
