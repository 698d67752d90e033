"""Distributed hybrid batch training of multilingual dense retrievers (arXiv 2408.10536).

The names below are what notebooks use (docs/api.md); each is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbt_dist.analysis import candidates, curve, knee_point, load_search, pair_difference, pareto_front
    from hbt_dist.batching.plan import BatchPlan
    from hbt_dist.config import load_run
    from hbt_dist.data.benchmark import load_benchmark
    from hbt_dist.data.corpus import build_corpus
    from hbt_dist.encoder import load_encoder
    from hbt_dist.evaluation.compare import compare, comparison_text
    from hbt_dist.evaluation.encode import encode_texts
    from hbt_dist.evaluation.evaluation import evaluate
    from hbt_dist.evaluation.report import write_report
    from hbt_dist.evaluation.stored import read_evaluation
    from hbt_dist.evaluation.writing import write_evaluation
    from hbt_dist.jobs import train_job

__version__ = "0.1.0"

__all__ = [
    "BatchPlan",
    "build_corpus",
    "candidates",
    "compare",
    "comparison_text",
    "curve",
    "encode_texts",
    "evaluate",
    "knee_point",
    "load_benchmark",
    "load_encoder",
    "load_run",
    "load_search",
    "pair_difference",
    "pareto_front",
    "read_evaluation",
    "train_job",
    "write_evaluation",
    "write_report",
]

_MODULES = {
    "BatchPlan": "batching.plan",
    "build_corpus": "data.corpus",
    "compare": "evaluation.compare",
    "comparison_text": "evaluation.compare",
    "encode_texts": "evaluation.encode",
    "evaluate": "evaluation.evaluation",
    "load_benchmark": "data.benchmark",
    "load_encoder": "encoder",
    "load_run": "config",
    "read_evaluation": "evaluation.stored",
    "train_job": "jobs",
    "write_evaluation": "evaluation.writing",
    "write_report": "evaluation.report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'analysis')}"), name)
