"""Check on real batches what must hold for every plan; for authors of user-defined kinds.

The property tests of the package (tests/batching/test_plan.py) ask the same over random corpora and mixtures.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.kinds import own_pairs
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import own_pairs_of
from hbt_dist.config.user_functions import is_user_function


def check_plan(
    corpus: PlanCorpus, settings: BatchSettings, seed: int = 0, steps: Iterable[int] = range(20)
) -> None:
    """Draw batches and check them: rows, texts, kinds, ranks, and that step and seed alone decide.

    Args:
        corpus: of `build_corpus`.
        settings: the `batches` block.
        steps: which batches are drawn.

    Raises:
        AssertionError: it names the step and what does not hold.
        UserError: as `BatchPlan`.
    """
    plan = BatchPlan(corpus, settings, seed)
    fingerprint = plan.fingerprint
    for step in steps:
        batch = plan.batch(step)
        _require(len(batch) == settings.global_batch_size, step, "the batch has another size")
        _check_rows(corpus, batch)
        _check_user_kinds(plan, batch)
        _check_ranks(batch)
        own_pairs.cache_clear()
        alone = BatchPlan(corpus, settings, seed)  # has drawn nothing before, as after a resume
        _require(alone.fingerprint == fingerprint, step, "a kind gives different pairs in a second call")
        _require(_same(alone.batch(step), batch), step, "the batch depends on more than seed and step")


def _check_rows(corpus: PlanCorpus, batch: GlobalBatch) -> None:
    groups = np.asarray(corpus.example_group)[batch.example]
    _require(len(np.unique(groups)) == len(batch), batch.step, "a passage or a translation comes twice")
    cell = np.asarray(corpus.example_cell)[batch.example]
    has_text = np.asarray(corpus.cell_questions)[cell, batch.question_language]
    has_text = has_text & np.asarray(corpus.cell_passages)[cell, batch.passage_language]
    _require(bool(has_text.all()), batch.step, "a row has no text in its language")


def _check_user_kinds(plan: BatchPlan, batch: GlobalBatch) -> None:
    """Check that every row of a user-defined kind has a pair of one of the entries of that kind."""
    names = plan.corpus.languages
    for number, kind in enumerate(plan.kinds):
        rows = np.flatnonzero(batch.kind_of_row == number)
        if not is_user_function(kind) or not len(rows):
            continue
        allowed = [own_pairs_of(e, plan.corpus, "") for e in plan.settings.entries() if e.kind == kind]
        pairs = {pair for entry in allowed for pair in entry.pairs}
        questions, passages = batch.question_language[rows], batch.passage_language[rows]
        drawn = {(names[q], names[p]) for q, p in zip(questions, passages, strict=True)}
        _require(drawn <= pairs, batch.step, f"{kind} has rows of {sorted(drawn - pairs)}")
        for slot in np.unique(batch.sub_batch[rows]) if all(entry.one_per_batch for entry in allowed) else ():
            inside = batch.sub_batch[rows] == slot
            used = {*zip(questions[inside].tolist(), passages[inside].tolist(), strict=True)}
            _require(len(used) == 1, batch.step, f"{kind} mixes pairs in a batch")


def _check_ranks(batch: GlobalBatch) -> None:
    for world_size in (size for size in (2, 3, 4, 8) if len(batch) % size == 0):
        parts = [batch.rank_slice(rank, world_size) for rank in range(world_size)]
        joined = np.concatenate([part.example for part in parts])
        _require(
            np.array_equal(joined, batch.example),
            batch.step,
            f"{world_size} ranks have different rows than one",
        )


def _same(first: GlobalBatch, second: GlobalBatch) -> bool:
    return all(np.array_equal(value, getattr(second, name)) for name, value in vars(first).items())


def _require(holds: bool, step: int, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"step {step}: {otherwise}")
