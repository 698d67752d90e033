"""Evaluates a MIRACL folder and reports how much memory that took.

As a process of its own: large_pool_body.py FOLDER MODEL WORK MEMORY_BYTES
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.models.loading import load_encoder


def peak_bytes() -> int:
    """Most resident memory so far of this process alone (ru_maxrss also knows its parent's)."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def evaluate_folder(
    folder: Path, model: Path, work: Path, memory_bytes: int, lists: str = "counted"
) -> dict[str, Any]:
    """Read, encode, rank and write below `work`; says what was found and the peaks of memory on the way."""
    loaded = load_encoder(model)
    settings = EvaluationSettings(
        device="cpu",
        num_threads=1,
        rows_per_file=8192,
        num_shards=3,
        cache_dir=str(work / "embeddings"),
        ranked_lists=lists,  # type: ignore[arg-type]
    )
    peaks = [peak_bytes()]
    benchmark = load_benchmark("miracl", folder, cache_dir=work / "cache", memory_bytes=memory_bytes)
    peaks.append(peak_bytes())
    questions = encode_texts(loaded, benchmark.question_texts, "question", settings=settings, progress=False)
    candidates = encode_texts(loaded, benchmark.candidate_texts, "passage", settings=settings, progress=False)
    peaks.append(peak_bytes())
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    write_evaluation(evaluation, work / "results", trec=True)
    peaks.append(peak_bytes())
    return {"on_disk": benchmark.on_disk, "fingerprint": benchmark.fingerprint, "peaks": peaks}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(evaluate_folder(*map(Path, sys.argv[1:4]), int(sys.argv[4]))))
