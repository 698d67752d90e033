"""Check on real batches what must hold for every plan; for authors of user-defined kinds.

The property tests of the package (tests/batching/test_plan.py) check the same over random corpora and
mixtures.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hbt_dist.batching.kinds import KINDS, user_pairs
from hbt_dist.batching.plan import BatchPlan, GlobalBatch, RowTransform
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import pairs_of_user_kind
from hbt_dist.data.corpus.corpus import Corpus


def check_plan(
    corpus: Corpus,
    settings: BatchSettings,
    seed: int = 0,
    steps: Iterable[int] = range(20),
    transform: RowTransform | None = None,
) -> None:
    """Draw batches and check their rows, texts, kinds and ranks, and that only step and seed decide them.

    Args:
        corpus: of `build_corpus`.
        settings: the `batches` block.
        seed: of the plan.
        steps: steps of the batches.
        transform: as for `BatchPlan` (`plan_batches(...).transform` with code-switching).

    Raises:
        AssertionError: names the step and the failed check.
        UserError: as `BatchPlan`.
    """
    plan = BatchPlan(corpus, settings, seed, transform)
    fingerprint = plan.fingerprint
    for step in steps:
        batch = plan.batch(step)
        _require(len(batch) == settings.global_batch_size, step, "the batch has another size")
        _check_rows(corpus, batch)
        _check_user_kinds(plan, batch)
        _check_ranks(batch)
        user_pairs.cache_clear()
        fresh = BatchPlan(corpus, settings, seed, transform)  # has drawn nothing before, as after a resume
        _require(fresh.fingerprint == fingerprint, step, "a kind gives different pairs in a second call")
        same = all(
            np.array_equal(value, vars(batch)[name]) for name, value in vars(fresh.batch(step)).items()
        )
        _require(same, step, "the batch depends on more than seed and step")


def _check_rows(corpus: Corpus, batch: GlobalBatch) -> None:
    groups = np.asarray(corpus.example_group)[batch.example]
    _require(len(np.unique(groups)) == len(batch), batch.step, "a passage or a translation comes twice")
    cell = np.asarray(corpus.example_cell)[batch.example]
    has_texts = np.asarray(corpus.cell_questions)[cell, batch.question_language]
    has_texts = has_texts & np.asarray(corpus.cell_passages)[cell, batch.passage_language]
    _require(bool(has_texts.all()), batch.step, "a row has no text in its language")


def _check_user_kinds(plan: BatchPlan, batch: GlobalBatch) -> None:
    """Check that every row of a user-defined kind has a pair of one of the entries of that kind."""
    names = plan.corpus.languages
    for number in range(len(KINDS), len(plan.kinds)):
        kind, rows = plan.kinds[number], np.flatnonzero(batch.kind_of_row == number)
        allowed = [pairs_of_user_kind(e, plan.corpus, "") for e in plan.settings.entries() if e.kind == kind]
        question, passage = batch.question_language[rows], batch.passage_language[rows]
        drawn = [(names[q], names[p]) for q, p in zip(question, passage, strict=True)]
        wrong = set(drawn).difference(*(kind_pairs.pairs for kind_pairs in allowed))
        _require(not wrong, batch.step, f"{kind} has rows of {sorted(wrong)}")
        if all(kind_pairs.one_per_batch for kind_pairs in allowed):
            slots = batch.sub_batch[rows].tolist()
            used = set(zip(slots, drawn, strict=True))
            _require(len(used) == len(set(slots)), batch.step, f"{kind} mixes pairs in a batch")


def _check_ranks(batch: GlobalBatch) -> None:
    for world_size in (size for size in (2, 3, 4, 8) if len(batch) % size == 0):
        parts = [batch.rank_slice(rank, world_size) for rank in range(world_size)]
        same = np.array_equal(np.concatenate([part.example for part in parts]), batch.example)
        _require(same, batch.step, f"{world_size} ranks have different rows than one")


def _require(holds: bool, step: int, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"step {step}: {otherwise}")
