"""Reject batches that a corpus cannot fill, and name settings that it can.

A plan is rejected for one of two reasons:

1. *A stream has too few groups.* repeats.py can serve a row of a slot from every group of its stream. So a
   stream needs one group for each row of its slot, and one for each row of the slots served before it that
   can take a group from it. For one kind per batch this is exact: B rows need B groups.
2. *A choice has too few groups.* A choice is a dataset and a language pair, with a share of the rows. If the
   choices that only certain cells can serve need more rows per batch on average than these cells have groups,
   no plan can keep their shares. Smaller deviations, from rounding and chance, are left to repeats.py;
   `hbt-dist data inspect` shows the drawn share of each pair next to the expected share.

Letters: C cells, P pairs, D datasets, R choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.counter_random import Int64s
from hbt_dist.batching.mixture import slots_of
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Stream, Streams, rows_of_entries
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function

_LANGUAGES_TRIED = 4
_NAMED = 6


@dataclass(frozen=True)
class Shortfall:
    """A stream whose `choices` need more rows than there are groups."""

    stream: Stream
    rows: float  # per batch: at most for the whole stream, on average for some of its choices
    groups: int
    choices: NDArray[np.integer]  # (R, 2) dataset and pair
    whole_stream: bool


@dataclass(frozen=True)
class Feasibility:
    """The groups of a corpus against the rows of a plan."""

    corpus: PlanCorpus
    cells: Cells
    settings: BatchSettings
    streams: Streams

    def shortfall(self, global_batch_size: int | None = None) -> Shortfall | None:
        """Return the first shortfall for batches of the settings' size, or of a smaller size."""
        settings = self.settings
        if global_batch_size is not None:
            settings = settings.model_copy(update={"global_batch_size": global_batch_size})
        for number, stream in enumerate(self.streams.each):
            needed, groups = self._needed(number, settings), self.num_groups[number]
            if needed > groups:
                return Shortfall(stream, needed, groups, np.argwhere(self._choice_shares(stream)), True)
        rows = rows_of_entries(settings)
        for stream in self.streams.each:
            shortfall = self._choice_shortfall(stream, rows.get(stream.shares.entry, 0))
            if shortfall is not None:
                return shortfall
        return None

    def largest_batch(self) -> int:
        """Return the largest global batch size below that of the settings without a shortfall; 0: none."""
        low, high = 0, self.settings.global_batch_size
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.shortfall(middle) is None else (low, middle)
        return low

    @cached_property
    def num_groups(self) -> list[int]:
        """Groups of each stream; a lower bound where it is not below the global batch size."""
        return [
            max(stratum.num_groups for stratum in stream.strata) if self._is_large(stream) else len(groups)
            for stream, groups in zip(self.streams.each, self._groups, strict=True)
        ]

    @property
    def fewest_first(self) -> list[int]:
        """The streams by their number of groups: the order in which they are served where groups are few."""
        return sorted(range(len(self.num_groups)), key=lambda number: (self.num_groups[number], number))

    @cached_property
    def _groups(self) -> list[Int64s]:
        """The groups of each stream, sorted; empty for a stream that has more than it ever needs."""
        everything = np.ones(len(self.cells.dataset), np.bool_)
        return [
            np.empty(0, np.int64) if self._is_large(stream) else self._groups_of(stream, everything)
            for stream in self.streams.each
        ]

    def _is_large(self, stream: Stream) -> bool:
        return max(part.num_groups for part in stream.strata) >= self.settings.global_batch_size

    def _groups_of(self, stream: Stream, cells: NDArray[np.bool_]) -> Int64s:
        """Return the groups that a stream has in the cells (C,), sorted."""
        used = np.unique(stream.stratum_of_cell[cells])
        rows = np.concatenate(
            [stream.strata[number].examples(self.streams.pool) for number in used[used >= 0]]
        )
        return np.unique(np.asarray(self.corpus.example_group)[rows[cells[self.cells.of_example[rows]]]])

    def _needed(self, number: int, settings: BatchSettings) -> int:
        """Return the most groups that rows of a stream, and of the streams served before it, take from it."""
        stream = self.streams.each[number]
        entry = stream.shares.entry
        slots = [slot for slot in slots_of(settings) if slot.entry in (None, entry)]
        if self._is_large(stream) or not slots:
            return 0
        needed = slots[0].max_rows
        before = self.fewest_first[: self.fewest_first.index(number) + 1]
        for slot in slots_of(settings):
            shared = [
                len(np.intersect1d(self._groups[earlier], self._groups[number]))
                for earlier in before
                if slot != slots[0] and self.streams.each[earlier].shares.entry == slot.entry
            ]
            needed += min(slot.max_rows, max(shared, default=0))
        return min(needed, settings.global_batch_size)

    def _choice_shares(self, stream: Stream) -> NDArray[np.float64]:
        """Return the share of each dataset and pair in a stream's rows: (D, P)."""
        shares = np.zeros((len(self.corpus.datasets), stream.shares.joint.share.shape[1]))
        np.add.at(shares, self.cells.dataset, stream.shares.joint.share)
        return shares

    def _choice_shortfall(self, stream: Stream, rows: int) -> Shortfall | None:
        """Return the first choices of a stream that need more of its `rows` than their cells have groups."""
        if len(stream.strata) == 1:
            return None
        shares = self._choice_shares(stream)
        choices = np.argwhere(shares)
        gives = stream.shares.joint.share > 0  # (C, P)
        served_by = gives[:, choices[:, 1]].T & (self.cells.dataset == choices[:, :1])  # (R, C)
        cell_sets = np.unique(served_by, axis=0)
        confined = served_by.astype(np.float32) @ ~cell_sets.T == 0  # (R, sets) no cell outside the set
        demand = rows * shares[shares > 0] @ confined
        largest = np.array([stratum.size[-1] for stratum in stream.strata])
        for cells, needed, members in zip(cell_sets, demand.tolist(), confined.T, strict=True):
            examples = np.bincount(
                stream.stratum_of_cell[cells], self.cells.num_examples[cells], len(stream.strata)
            )
            if needed > int((examples / largest).max()):  # a quick lower bound of the groups
                groups = len(self._groups_of(stream, cells))
                if needed > groups + 1e-6:
                    return Shortfall(stream, needed, groups, choices[members], False)
        return None


def check_feasible(feasibility: Feasibility) -> None:
    """Reject a plan whose batches the corpus cannot fill.

    Each remedy in the message was tried: with it, the plan is feasible.

    Raises:
        UserError: names the rows that lack groups, the number of groups, and the remedies.
    """
    shortfall = feasibility.shortfall()
    if shortfall is None:
        return
    corpus, settings = feasibility.corpus, feasibility.settings
    kind = settings.entries()[shortfall.stream.shares.entry].kind
    joint = shortfall.stream.shares.joint
    used = np.unique(shortfall.choices[:, 1])
    pairs = [
        corpus.languages[q] if q == p else f"{corpus.languages[q]}-{corpus.languages[p]}"
        for q, p in zip(joint.question[used], joint.passage[used], strict=True)
    ]
    if shortfall.whole_stream:
        need = f"a batch can need {shortfall.rows:,} {kind} rows ({_listed(pairs)})"
    else:
        batch = f"a batch of {settings.global_batch_size:,} {kind} rows"
        need = f"{batch} needs {shortfall.rows:,.1f} on average in {_listed(pairs)}"
    datasets = sorted({corpus.datasets[dataset] for dataset in shortfall.choices[:, 0]})
    # A batch of one row without hard negatives has nothing to contrast with.
    more_data = "add data" if shortfall.groups > 1 else "add data: a batch needs at least two such passages"
    raise UserError(
        "batches.global_batch_size",
        f"{need}, for which {_listed(datasets)} has only {counted(shortfall.groups, 'passage')} that "
        "may meet in a batch",
        ", or\n".join([*_remedies(feasibility, shortfall), more_data]),
    )


def _remedies(feasibility: Feasibility, shortfall: Shortfall) -> Iterator[str]:
    """Yield the remedies with which the plan is feasible."""
    settings = feasibility.settings
    largest = feasibility.largest_batch()
    if largest > 1 or (largest and settings.hard_negatives.count):
        yield f"lower global_batch_size to {largest:,} at most"
    per_row = {"datasets": settings.datasets.model_copy(update={"per": "row"})}
    if settings.datasets.per == "batch" and _works(feasibility, per_row):
        yield "set batches.datasets.per: row"
    entry = shortfall.stream.shares.entry
    kind = settings.entries()[entry].kind
    weights = "pairs" if kind == "crosslingual" or is_user_function(kind) else "languages"
    by_size = getattr(settings, weights) == "size"
    if not shortfall.whole_stream and not by_size and _works(feasibility, {weights: "size"}):
        yield f"set batches.{weights}: size"
    names = settings.entries()[entry].languages or feasibility.corpus.languages
    for language in _scarce_languages(feasibility, shortfall):
        mixture = list(settings.entries())
        fewer = [name for name in names if name != language]
        mixture[entry] = mixture[entry].model_copy(update={"languages": fewer})
        if fewer and _works(feasibility, {"alpha": None, "mixture": mixture}):
            yield f"leave {language} out of batches.mixture[{entry}].languages"
            return


def _works(feasibility: Feasibility, change: dict[str, Any]) -> bool:
    corpus, cells = feasibility.corpus, feasibility.cells
    settings = feasibility.settings.model_copy(update=change)
    try:
        streams = Streams.of(corpus, cells, settings, seed=0)
    except UserError:
        return False
    return Feasibility(corpus, cells, settings, streams).shortfall() is None


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _scarce_languages(feasibility: Feasibility, shortfall: Shortfall) -> list[str]:
    """Return languages of the rows that lack groups, those with the fewest examples first."""
    joint, cells = shortfall.stream.shares.joint, feasibility.cells
    used = np.unique(shortfall.choices[:, 1])
    languages = np.union1d(joint.question[used], joint.passage[used])
    num_examples = cells.num_examples @ (cells.questions & cells.passages)
    ordered = sorted(languages.tolist(), key=lambda language: (int(num_examples[language]), language))
    return [feasibility.corpus.languages[language] for language in ordered[:_LANGUAGES_TRIED]]
