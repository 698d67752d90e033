"""Tabulate how many words code-switching replaces in evenly spaced steps: `hbt-dist data inspect`."""

from __future__ import annotations

from typing import get_args

from hbt_dist.batching.inspection import Cell, Table, evenly_spaced_steps
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.methods.code_switching.switching import CodeSwitching, SwitchCounts

_SAMPLED_ROWS = 4096


def switching_tables(plan: BatchPlan, total_steps: int, corpus: Corpus) -> list[Table]:
    """Return a table of the realised ratios, or an empty list for a plan without code-switching."""
    switching = plan.transform
    if not isinstance(switching, CodeSwitching):
        return []
    steps = evenly_spaced_steps(total_steps, max(1, _SAMPLED_ROWS // plan.settings.global_batch_size))
    rows: list[tuple[Cell, ...]] = []
    for role in get_args(Role):
        changes = [switching.change(role, corpus, plan.batch(step)) for step in steps]
        counts = sum((change.counts for change in changes), SwitchCounts())
        known = counts.known / counts.words if counts.words else 0.0
        rows.append((role, counts.texts, counts.words, known, switching.probability(role), counts.ratio))
    pairs = [f"{source}: {' '.join(sorted(targets))}" for source, targets in switching.lexicon.pairs.items()]
    return [
        Table(
            f"Code-switching ({switching.settings.variant})",
            ("role", "texts", "words", "in a dictionary, share", "drawn share", "switched share"),
            rows,
            f"in {len(steps)} evenly spaced steps; {'; '.join(pairs)}",
        )
    ]
