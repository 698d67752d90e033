"""Show what the corpus of a run holds and what its plan draws."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from hbt_dist.run_file import RunFile


def inspect_job(run: RunFile, *, step: int | None, rows: int, tokens: bool, as_json: bool) -> str:
    """Return what the corpus of a run holds and what its plan draws, as tables or JSON.

    Args:
        step: also show the rows of this step.
        rows: number of these rows.
        tokens: tokenise first, and report lengths in tokens instead of characters.

    Raises:
        UserError: the data or the batches cannot be used.
    """
    from hbt_dist.batching.inspection import inspect
    from hbt_dist.batching.inspection_text import render
    from hbt_dist.data.corpus.convert import build_corpus
    from hbt_dist.data.corpus.notes import reading_text
    from hbt_dist.methods.code_switching.inspection import switching_tables
    from hbt_dist.methods.code_switching.switching import plan_batches

    if tokens:
        from hbt_dist.training.preparation import prepare

        prepared = prepare(run)
        corpus, plan, store = prepared.corpus, prepared.plan, prepared.tokens
    else:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
        plan, store = plan_batches(corpus, run.batches, run.seed), None
    report = inspect(plan, run.training.steps, step=step, tokens=store, rows=rows)
    report.plan.extend(switching_tables(plan, run.training.steps, corpus))
    if as_json:
        notes = reading_text(corpus).splitlines()
        return json.dumps({**asdict(report), "notes": notes}, ensure_ascii=False)
    return "\n\n".join(part for part in (render(report).rstrip(), reading_text(corpus)) if part)
