"""The batch plan: `BatchPlan(corpus, settings, seed).batch(step)` is the global batch of a step.

A pure function of its arguments. It knows no ranks: every rank computes the same global batch and takes its
slice, so all world sizes train on the same batches, a resume needs the step alone, and any step can be
looked at without the ones before it. No group of examples (one passage, its translations, equal texts)
comes twice in a global batch.

How: mixture.py draws which streams feed the batch and how often each was drawn before; streams.py gives the
rows of that draw; here groups that two of them have in common are told apart (spares.py, lending.py) and the
rows are shuffled. capacity.py refuses what a corpus cannot fill.
Cost: 8,192 rows in about 10 ms, whatever the size of the corpus; building the plan sorts the examples once
(2.5 s at 10 million, benchmarks/results/batching_speed.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.counter_random import Int64s, below, derive_key, hash64
from hbt_dist.batching.feasibility import Capacity
from hbt_dist.batching.holders import Holders
from hbt_dist.batching.kinds import all_kinds
from hbt_dist.batching.lending import Lender
from hbt_dist.batching.mixture import Mixture
from hbt_dist.batching.negatives import hard_negatives
from hbt_dist.batching.repeats import StratumTable, replace_repeated
from hbt_dist.batching.resume import FIRST_VERSION, PLAN_VERSION, plan_state, state_fingerprint
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.shortfall import refuse_shortfall
from hbt_dist.batching.streams import Streams
from hbt_dist.common.errors import UserError
from hbt_dist.methods.code_switching.switching import CodeSwitching

Int32s = NDArray[np.int32]


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
    negative_filled: NDArray[np.bool_]  # (B, n) drawn at random because the data has too few
    sub_batch: Int32s  # (B,) 0 unless mixing is shares
    kind_of_row: Int32s  # (B,) index into the plan's kinds

    def __len__(self) -> int:
        return len(self.example)

    def rows(self, which: slice | NDArray[np.integer]) -> GlobalBatch:
        """Return some of the rows."""
        parts: dict[str, Any] = {
            item.name: value[which] if isinstance(value := getattr(self, item.name), np.ndarray) else value
            for item in fields(self)
        }
        return GlobalBatch(**parts)

    def rank_slice(self, rank: int, world_size: int) -> GlobalBatch:
        """Return rows rank*b to (rank+1)*b, b = B / world_size.

        Raises:
            UserError: the rows do not divide among the ranks.
        """
        check_divisible(len(self), world_size)
        share = len(self) // world_size
        return self.rows(slice(rank * share, (rank + 1) * share))


def check_divisible(global_batch_size: int, world_size: int) -> None:
    """Refuse a global batch that does not divide among the ranks, naming the nearest sizes that do."""
    if global_batch_size % world_size == 0:
        return
    below_it = global_batch_size // world_size * world_size
    sizes = [str(size) for size in (below_it, below_it + world_size) if size]
    worlds = [size for size in range(1, global_batch_size + 1) if global_batch_size % size == 0]
    near = sorted(sorted(worlds, key=lambda size: abs(size - world_size))[:2])
    raise UserError(
        "batches.global_batch_size",
        f"{global_batch_size} rows do not divide among {world_size} processes",
        f"use {' or '.join(sizes)} rows, or {' or '.join(map(str, near))} processes",
    )


class BatchPlan:
    """All global batches of a run; with code-switching, `switching` says how their texts are changed.

    Args:
        corpus: what to draw from.
        settings: the `batches` block of the run file.
        seed: of the run.

    Raises:
        UserError: the corpus cannot give what the settings ask for, or a dictionary of the code-switching
            cannot be read.
    """

    def __init__(self, corpus: PlanCorpus, settings: BatchSettings, seed: int) -> None:
        self.corpus = corpus
        self.settings = settings
        self.seed = seed
        self.kinds = all_kinds([entry.kind for entry in settings.entries()])
        self.cells = Cells.of(corpus)
        made = Streams.of(corpus, self.cells, settings, seed)
        capacity = Capacity(corpus, self.cells, settings, made)
        refuse_shortfall(capacity)
        self.streams, self._pool = made.each, made.pool
        self.mixture = Mixture(
            settings, [np.array([part.weight for part in group]) for group in made.shares], seed
        )
        self._table = StratumTable.of(self.streams)
        self._lender = Lender(
            self.streams, capacity.service, self.cells, self._pool, np.asarray(corpus.example_group)
        )
        self.switching: CodeSwitching | None = None
        if settings.code_switching is not None:
            self.switching = CodeSwitching.of(settings.code_switching, corpus.languages, seed, self.kinds)

    @cached_property
    def state(self) -> dict[str, Any]:
        """What decides the batches, as plain data, to be saved with a checkpoint (resume.check_resume)."""
        switching = None if self.switching is None else self.switching.state
        return plan_state(self.corpus, self.settings, self.seed, switching, self._version)

    @property
    def _version(self) -> int:
        """The version of the plan's rules that last changed anything for such data and settings."""
        has = np.asarray(self.corpus.set_languages)
        filled = self.settings.hard_negatives.count > 0 and not has[:, self._negative_languages].all()
        changed = filled or any(stream.few.any() for stream in self.streams)
        return PLAN_VERSION if changed else FIRST_VERSION

    @property
    def fingerprint(self) -> str:
        """Equal for two plans if all their batches are equal."""
        return state_fingerprint(self.state)

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """The languages that rows can be drawn in: not those of the corpus that the mixture leaves out."""
        used: set[int] = set()
        for stream in self.streams:
            joint = stream.shares.joint
            drawn = joint.share.any(axis=0)
            used |= {*joint.question[drawn].tolist(), *joint.passage[drawn].tolist()}
        return tuple(self.corpus.languages[index] for index in sorted(used))

    def batch(self, step: int) -> GlobalBatch:
        """Return the global batch of a step (0 is the first)."""
        example, slot, stream, pair = self._rows(step)
        joints = [one.shares.joint for one in self.streams]
        question = np.empty(len(example), np.int32)
        passage = np.empty(len(example), np.int32)
        kind = np.empty(len(example), np.int32)
        for number in np.unique(stream):
            rows = stream == number
            question[rows] = joints[number].question[pair[rows]]
            passage[rows] = joints[number].passage[pair[rows]]
            kind[rows] = self.kinds.index(self.mixture.entries[self.mixture.entry_of(int(number))].kind)
        shuffled = np.argsort(hash64(derive_key("shuffle", self.seed, step), np.arange(len(example))))
        example, question, passage = example[shuffled], question[shuffled], passage[shuffled]
        negative, language, filled = self._negatives(step, example, question, passage)
        return GlobalBatch(
            step=step,
            kind="shares" if self.settings.mixing == "shares" else self.kinds[kind[0]],
            example=example,
            question_language=question,
            passage_language=passage,
            negative=negative,
            negative_language=language,
            negative_filled=filled,
            sub_batch=slot[shuffled].astype(np.int32),
            kind_of_row=kind[shuffled],
        )

    def _rows(self, step: int) -> tuple[Int64s, Int64s, Int64s, Int64s]:
        """Return example, slot, stream and pair of each row, slot by slot."""
        drawn = self.mixture.streams(np.array([step], np.int64))[0]
        draws = self.mixture.draws_before(step)
        parts = []
        for slot, (number, count) in enumerate(zip(drawn, self.mixture.rows_of_slots(step), strict=True)):
            rows = self.streams[number].draw(int(draws[number]))
            draws[number] += 1
            keep: slice | Int64s = slice(None)
            if count < len(rows.stratum):  # a slot that is smaller now than at its largest
                keep = np.argsort(
                    hash64(derive_key("part", self.seed, step, slot), np.arange(len(rows.stratum)))
                )
                keep = keep[:count]
            stratum, pool_row, epoch = rows.stratum[keep], rows.pool_row[keep], rows.epoch[keep]
            parts.append((stratum, pool_row, epoch, np.full(len(stratum), slot)))
        stratum, pool_row, epoch, slot_of = (np.concatenate(column) for column in zip(*parts, strict=True))
        stream = drawn[slot_of]
        example = np.where(pool_row >= 0, self._pool[pool_row], -1).astype(np.int64)
        example, kept = self._without_repeats(
            step, example, stratum + self._table.first[stream], stream, epoch
        )
        cell = self.cells.of_example[example]
        pair = np.empty(len(example), np.int64)
        for number in np.unique(stream):
            rows_of = stream == number
            pair[rows_of] = self.streams[number].pairs(example[rows_of], cell[rows_of], epoch[rows_of])
        pair = np.where(kept >= 0, kept, pair)
        return example, slot_of, stream, pair

    def _without_repeats(
        self, step: int, example: Int64s, stratum: Int64s, stream: Int64s, epoch: Int64s
    ) -> tuple[Int64s, Int64s]:
        """Return examples of as many groups as rows, and the pair of each row that keeps one (else -1)."""
        group = np.asarray(self.corpus.example_group)
        key = derive_key("spare", self.seed, step)
        filled = replace_repeated(example, stratum, self._table, self._pool, group, key)
        if (filled >= 0).all():
            return filled, np.full(len(filled), -1)
        place = below(derive_key("origin", key), np.arange(len(example)), self._table.num_examples[stratum])
        any_of_stratum = self._pool[self._table.start[stratum] + place]
        origin = np.where(example >= 0, example, any_of_stratum).astype(np.int64)
        return self._lender.lend(filled, stream, origin, epoch, derive_key("lend", key))

    def _negatives(
        self, step: int, example: Int64s, question: Int32s, passage: Int32s
    ) -> tuple[Int64s, Int32s, NDArray[np.bool_]]:
        count = self.settings.hard_negatives.count
        shape = (len(example), count)
        if not count:
            return np.empty(shape, np.int64), np.empty(shape, np.int32), np.empty(shape, np.bool_)
        choice = self.settings.hard_negatives.language
        if choice == "random":
            numbers = np.arange(len(example) * count).reshape(shape)
            drawn = below(
                derive_key("negative language", self.seed, step), numbers, len(self._negative_languages)
            )
            language = self._negative_languages[drawn]
        else:
            language = np.repeat((passage if choice == "passage" else question)[:, None], count, axis=1)
        group = np.asarray(self.corpus.example_group)[example]
        key = derive_key("negatives", self.seed, step)
        rows, filled = hard_negatives(self.corpus, self._holders, example, group, language, key)
        return rows, language, filled

    @cached_property
    def _holders(self) -> Holders:
        return Holders(self.corpus)

    @cached_property
    def _negative_languages(self) -> Int32s:
        """Every language that a passage of the plan can have."""
        used = [stream.shares.joint.passage for stream in self.streams]
        return np.unique(np.concatenate(used)).astype(np.int32)
