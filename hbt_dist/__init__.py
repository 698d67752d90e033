"""Distributed hybrid batch training of multilingual dense retrievers (arXiv 2408.10536).

The names below are what notebooks use (docs/api.md); each is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbt_dist.analysis import candidates, curve, knee_point, load_search, pair_difference, pareto_front
    from hbt_dist.batching.plan import BatchPlan
    from hbt_dist.common.errors import UserError
    from hbt_dist.comparison.compare import compare
    from hbt_dist.comparison.text import comparison_text
    from hbt_dist.data.benchmarks.load import load_benchmark
    from hbt_dist.data.corpus.convert import build_corpus
    from hbt_dist.evaluation.encode import encode_texts
    from hbt_dist.evaluation.evaluation import evaluate
    from hbt_dist.evaluation.read_results import read_evaluation
    from hbt_dist.evaluation.writing import write_evaluation
    from hbt_dist.jobs.evaluate_model import evaluate_model
    from hbt_dist.jobs.train_run import train
    from hbt_dist.models.loading import load_encoder
    from hbt_dist.reports.evaluation.page import write_report
    from hbt_dist.run_file import load_run

__version__ = "0.1.0"

__all__ = [
    "BatchPlan",
    "UserError",
    "build_corpus",
    "candidates",
    "compare",
    "comparison_text",
    "curve",
    "encode_texts",
    "evaluate",
    "evaluate_model",
    "knee_point",
    "load_benchmark",
    "load_encoder",
    "load_run",
    "load_search",
    "pair_difference",
    "pareto_front",
    "read_evaluation",
    "train",
    "write_evaluation",
    "write_report",
]

_MODULES = {
    "BatchPlan": "batching.plan",
    "UserError": "common.errors",
    "build_corpus": "data.corpus.convert",
    "compare": "comparison.compare",
    "comparison_text": "comparison.text",
    "encode_texts": "evaluation.encode",
    "evaluate": "evaluation.evaluation",
    "evaluate_model": "jobs.evaluate_model",
    "load_benchmark": "data.benchmarks.load",
    "load_encoder": "models.loading",
    "load_run": "run_file",
    "read_evaluation": "evaluation.read_results",
    "train": "jobs.train_run",
    "write_evaluation": "evaluation.writing",
    "write_report": "reports.evaluation.page",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'analysis')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
