"""Plan the batches of a run: `BatchPlan(corpus, settings, seed).batch(step)` is the global batch of a step.

The plan is a pure function of its arguments and knows no ranks: every rank computes the same global batch and
takes its slice. So all world sizes train on the same batches, a resume needs the step alone, and each step
can be read without the steps before it. No group of examples (one passage, its translations, equal texts)
comes twice in a global batch.

How: mixture.py draws the streams that feed the batch and counts their earlier draws; streams.py gives the
rows of a draw; repeats.py replaces groups that two draws have in common; the plan shuffles the rows and adds
hard negatives. feasibility.py rejects what a corpus cannot fill. Cost: 8,192 rows in about 10 ms for every
size of the corpus. Building the plan sorts the examples once per node (strata.py, benchmarks/data/scale.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int32s, Int64s, derive_key, hash64
from hbt_dist.batching.feasibility import StreamGroups, check_feasible
from hbt_dist.batching.kinds import all_kinds
from hbt_dist.batching.mixture import Mixture
from hbt_dist.batching.negatives import HardNegatives, NegativeLists
from hbt_dist.batching.repeats import Repeats
from hbt_dist.batching.resume import PLAN_VERSION, Phase, state_fingerprint
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells, user_kinds_state
from hbt_dist.batching.streams import Streams
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus, Role


@dataclass(frozen=True)
class GlobalBatch:
    """The rows of a global batch (B rows), or a rank's slice of them. n hard negatives per row."""

    step: int
    kind: str  # one of the plan's kinds, or "shares" where every batch holds several kinds
    example: Int64s  # (B,)
    question_language: Int32s  # (B,) index into corpus.languages
    passage_language: Int32s  # (B,)
    negative: Int64s  # (B, n) passage rows
    negative_language: Int32s  # (B, n)
    negative_number: Int64s  # (B, n) index into the plan's lists; -1: a random passage, see negative_filled
    sub_batch: Int32s  # (B,) 0 unless mixing is shares
    kind_of_row: Int32s  # (B,) index into the plan's kinds
    negative_score: NDArray[np.float32] | None = None  # (B, n) of a teacher; NaN: not scored

    def __len__(self) -> int:
        return len(self.example)

    @property
    def negative_filled(self) -> NDArray[np.bool_]:
        """Whether each negative is a random passage, because the data has too few: (B, n)."""
        return self.negative_number < 0

    def rows(self, which: slice | NDArray[np.integer]) -> GlobalBatch:
        """Return some of the rows."""
        rows: dict[str, Any] = {
            name: column[which] for name, column in vars(self).items() if isinstance(column, np.ndarray)
        }
        return replace(self, **rows)

    def rank_slice(self, rank: int, world_size: int) -> GlobalBatch:
        """Return rows rank*b to (rank+1)*b, b = B / world_size.

        Raises:
            UserError: the rows do not divide among the ranks.
        """
        check_divisible(len(self), world_size)
        share = len(self) // world_size
        return self.rows(slice(rank * share, (rank + 1) * share))


def check_divisible(global_batch_size: int, world_size: int) -> None:
    """Reject a global batch that does not divide among the ranks.

    Raises:
        UserError: names the nearest sizes and numbers of processes that divide.
    """
    if global_batch_size % world_size == 0:
        return
    lower = global_batch_size // world_size * world_size
    sizes = [str(size) for size in (lower, lower + world_size) if size]
    worlds = [size for size in range(1, global_batch_size + 1) if global_batch_size % size == 0]
    near = sorted(sorted(worlds, key=lambda size: abs(size - world_size))[:2])
    raise UserError(
        "batches.global_batch_size",
        f"{global_batch_size} rows do not divide among {world_size} processes",
        f"use {' or '.join(sizes)} rows, or {' or '.join(map(str, near))} processes",
    )


class RowTransform(Protocol):
    """Changes texts of the planned rows, such as code-switching. It changes no row of a plan."""

    @property
    def state(self) -> Mapping[str, Any]:
        """Everything that decides the changed texts, as plain data."""

    def change(self, role: Role, corpus: Corpus, batch: GlobalBatch, first_row: int = 0) -> ChangedTexts:
        """Return the changed texts of a slice of a global batch, equal for every number of ranks.

        Args:
            role: the questions, or the passages (positives, then hard negatives row by row).
            corpus: texts of the rows.
            batch: a slice of a global batch.
            first_row: number of its first row in the global batch.
        """


@dataclass(frozen=True)
class ChangedTexts:
    """The texts of one role that a transform changes; m of them."""

    index: Int64s  # (m,) ascending, among the texts of the role
    texts: list[str]  # (m)
    counts: Any  # a dataclass of integers that the ranks add up


class BatchPlan:
    """All global batches of a run.

    Args:
        corpus: what to draw from.
        settings: the `batches` block of the run file.
        seed: of the run.
        transform: changes texts of the rows; its state becomes part of the plan's fingerprint. Required if
            the settings have code-switching: `plan_batches` of methods/code_switching builds both.

    Raises:
        UserError: the corpus cannot give what the settings ask for, or code-switching lacks its transform.
    """

    def __init__(
        self, corpus: Corpus, settings: BatchSettings, seed: int, transform: RowTransform | None = None
    ) -> None:
        if settings.code_switching is not None and transform is None:
            raise UserError(
                "batches.code_switching",
                "expected a BatchPlan with a transform, got transform=None, which changes no text",
                "build the plan with its transform: plan_batches(corpus, settings, seed) of\n"
                "hbt_dist.methods.code_switching.switching, or pass transform=CodeSwitching(...)",
            )
        self.corpus = corpus
        self.settings = settings
        self.seed = seed
        self.transform = transform
        self.phase: Phase | None = None
        self.kinds = all_kinds([entry.kind for entry in settings.entries()])
        self.cells = Cells.of(corpus)
        streams = Streams.of(corpus, self.cells, settings, seed)
        groups = StreamGroups(corpus, self.cells, settings, streams)
        check_feasible(groups)
        self.streams, self._pool = streams.each, streams.pool
        self.mixture = Mixture(
            settings, [np.array([part.weight for part in group]) for group in streams.shares], seed
        )
        group = np.asarray(corpus.example_group)
        self._repeats = Repeats(self.streams, groups.fewest_first, self.cells, self._pool, group)
        passage_languages = np.concatenate([stream.shares.joint.passage for stream in self.streams])
        self._negatives = HardNegatives(
            corpus, settings.hard_negatives, np.unique(passage_languages), self._pairs(), seed
        )

    def in_phase(self, phase: Phase, lists: NegativeLists | None) -> BatchPlan:
        """Return the plan of a phase of training.

        Args:
            phase: its steps; `batch` rejects different ones.
            lists: hard negatives of the phase; default: those of the corpus.
        """
        plan = copy(self)
        plan.phase = phase
        if lists is not None:
            plan._negatives = self._negatives.with_lists(lists)
        return plan

    @property
    def state(self) -> dict[str, Any]:
        """Everything that decides the batches, as plain data for a checkpoint (resume.check_resume)."""
        return self._state if self.phase is None else {**self._state, **self.phase.state}

    @cached_property
    def _state(self) -> dict[str, Any]:
        return {
            "version": PLAN_VERSION,
            "seed": self.seed,
            "corpus": self.corpus.fingerprint,
            "batches": self.settings.canonical(),
            **user_kinds_state(self.corpus, self.settings),
            **({} if self.transform is None else {"code_switching": dict(self.transform.state)}),
        }

    @property
    def fingerprint(self) -> str:
        """Equal for two plans if all their batches are equal."""
        return state_fingerprint(self.state)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """The languages that rows are drawn in, without languages of the corpus that no row can have."""
        return tuple(self.corpus.languages[index] for index in np.unique(self._pairs()))

    def _pairs(self) -> list[tuple[int, int]]:
        """Return the languages of question and passage that rows can have, ascending."""
        joints = [stream.shares.joint for stream in self.streams]
        drawn = [np.stack([joint.question, joint.passage])[:, joint.share.any(axis=0)] for joint in joints]
        return sorted(set(map(tuple, np.concatenate(drawn, axis=1).T.tolist())))

    def batch(self, step: int) -> GlobalBatch:
        """Return the global batch of a step (0 is the first).

        Raises:
            ValueError: the step belongs to a different phase, whose hard negatives this plan does not have.
        """
        if self.phase is not None and step not in self.phase.steps:
            raise ValueError(f"step {step} is not in the phase of {self.phase.steps}")
        example, slot, stream, pair = self._rows(step)
        shuffled = np.argsort(hash64(derive_key("shuffle", self.seed, step), np.arange(len(example))))
        example, slot, stream, pair = (column[shuffled] for column in (example, slot, stream, pair))
        question, passage, kind = (np.empty(len(example), np.int32) for _ in range(3))
        for number in np.unique(stream).tolist():
            rows = stream == number
            shares = self.streams[number].shares
            question[rows] = shares.joint.question[pair[rows]]
            passage[rows] = shares.joint.passage[pair[rows]]
            kind[rows] = self.kinds.index(self.mixture.entries[shares.entry].kind)
        negative, language, number = self._negatives.draw(step, example, question, passage)
        return GlobalBatch(
            step=step,
            kind="shares" if self.settings.mixing == "shares" else self.kinds[kind[0]],
            example=example,
            question_language=question,
            passage_language=passage,
            negative=negative,
            negative_language=language,
            negative_number=number,
            sub_batch=slot.astype(np.int32),
            kind_of_row=kind,
            negative_score=self._negatives.lists.scores(number),
        )

    def _rows(self, step: int) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """Return example, slot, stream and pair of each row, slot by slot."""
        drawn = self.mixture.streams(np.array([step], np.int64))[0]
        draws = self.mixture.draws_before(step)
        parts = []
        for slot, (number, count) in enumerate(zip(drawn, self.mixture.rows_of_slots(step), strict=True)):
            rows = self.streams[number].draw(int(draws[number]))
            draws[number] += 1
            keep = np.arange(len(rows.stratum))
            if count < len(keep):  # the slot has fewer rows at this step than at its largest
                keep = np.argsort(hash64(derive_key("part", self.seed, step, slot), keep))[:count]
            parts.append(
                (rows.stratum[keep], rows.pool_row[keep], rows.epoch[keep], np.full(len(keep), slot))
            )
        stratum, pool_row, epoch, slot_of = (np.concatenate(column) for column in zip(*parts, strict=True))
        stream = drawn[slot_of]
        example = np.where(pool_row >= 0, self._pool[pool_row], -1).astype(np.int64)
        key = derive_key("spare", self.seed, step)
        example, pair = self._repeats.replace(example, stratum, stream, epoch, key)
        cell = self.cells.of_example[example]
        for number in np.unique(stream):
            rows_of = np.flatnonzero((stream == number) & (pair < 0))
            pair[rows_of] = self.streams[number].pairs(example[rows_of], cell[rows_of], epoch[rows_of])
        return example, slot_of, stream, pair
