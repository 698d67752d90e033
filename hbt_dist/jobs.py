"""What the command line does, as functions: train, evaluate, expand a benchmark, look at batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hbt_dist.config import BenchmarkSettings, RunFile
from hbt_dist.evaluation_job import check_benchmarks, evaluate_job, load
from hbt_dist.training_job import Launcher, overlap_of, train_in_process, train_job

__all__ = [
    "Launcher",
    "check_benchmarks",
    "evaluate_job",
    "expand_job",
    "inspect_job",
    "load",
    "overlap_of",
    "train_in_process",
    "train_job",
]


def expand_job(
    model: str,
    benchmark: BenchmarkSettings,
    output: Path,
    settings: Any,
    *,
    translations: Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the expansion file of a benchmark with a causal language model; an interrupted one is continued.

    Args:
        model: folder or hub name of a causal language model.
        settings: `ExpansionSettings`.
        translations: see `hbt_dist.expansion.files`.
        device: where the model runs: auto, cpu, cuda, ...

    Raises:
        UserError: model, benchmark, translations or file cannot be used.
    """
    from hbt_dist.expansion.expand import expand_benchmark
    from hbt_dist.expansion.generate import load_generator

    data = load(benchmark)
    loaded = load_generator(model, dtype=settings.dtype, device=device, trust_remote_code=trust_remote_code)
    return expand_benchmark(loaded, data, output, settings, translations=translations, progress=not quiet)


def inspect_job(run: RunFile, *, step: int | None, rows: int, tokens: bool, as_json: bool) -> str:
    """What the corpus of a run holds and what its plan draws, as tables or JSON.

    Args:
        step: also show the rows of this step.
        rows: how many of them.
        tokens: tokenise first, and tell lengths in tokens instead of characters.

    Raises:
        UserError: the data or the batches cannot be used.
    """
    from hbt_dist.batching.inspect import inspect, render
    from hbt_dist.batching.plan import BatchPlan
    from hbt_dist.data.conversion import negatives_text
    from hbt_dist.data.corpus import build_corpus

    if tokens:
        from hbt_dist.training.preparation import prepare

        prepared = prepare(run)
        corpus, plan, store = prepared.corpus, prepared.plan, prepared.tokens
    else:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
        plan, store = BatchPlan(corpus, run.batches, run.seed), None
    report = inspect(plan, run.training.steps, step=step, tokens=store, texts=corpus, rows=rows)
    if as_json:
        return json.dumps(report.as_dict(), ensure_ascii=False)
    return "\n\n".join(part for part in (render(report).rstrip(), negatives_text(corpus)) if part)
