"""Exact ranks over a memory-mapped pool of millions: time per million candidates, memory, linearity.

    python benchmarks/evaluation/large_pool.py --candidates 5000000 --folder /tmp

Makes one file of random vectors (7.7 GB for 5 million x 384 float32; deleted at the end), ranks 10,000
questions in 4 shards over its first fifth and over all of it, checks ranks of a few questions by brute force,
and writes benchmarks/results/large_pool.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import torch

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.matrix_rows import release_pages
from hbt_dist.evaluation.settings import EvaluationSettings

BLOCK = 100_000
LANGUAGES = ("en", "de", "fi", "zh")


class NoTexts:
    """Placeholder for texts: only their number is read."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> str:
        return ""


def make_pool(path: Path, rows: int, width: int) -> np.memmap:
    rng = np.random.default_rng(0)
    with path.open("wb") as file:  # not through a memory map, whose pages would count as ours
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for first in range(0, rows, BLOCK):
            file.write(rng.standard_normal((min(BLOCK, rows - first), width), dtype=np.float32).data)
    return np.load(path, mmap_mode="r")


def make_benchmark(num_candidates: int, num_questions: int) -> Benchmark:
    rng = np.random.default_rng(1)
    return Benchmark(
        name="synthetic",
        variant=str(num_candidates),
        languages=LANGUAGES,
        question_ids=[f"q{i}" for i in range(num_questions)],
        question_language=np.sort(rng.integers(0, 4, num_questions)).astype(np.int32),
        question_texts=NoTexts(num_questions),
        question_cluster=np.arange(num_questions),
        candidate_ids=[f"{i:08d}" for i in range(num_candidates)],
        candidate_language=(np.arange(num_candidates) * 4 // num_candidates).astype(np.int32),
        candidate_texts=NoTexts(num_candidates),
        relevant_offsets=np.arange(num_questions + 1),
        relevant=rng.integers(0, num_candidates, num_questions),
        fingerprint="synthetic",
    )


def brute_force(pool: np.memmap, questions: np.ndarray, relevant: np.ndarray, size: int) -> np.ndarray:
    own = np.einsum("qd,qd->q", questions, pool[relevant])
    higher = np.zeros(len(questions), np.int64)
    for first in range(0, size, BLOCK):
        block = pool[first : min(first + BLOCK, size)]
        rows = np.arange(first, first + len(block))
        above = (questions @ block.T > own[:, None]) & (rows[None, :] != relevant[:, None])
        higher += above.sum(axis=1)
        release_pages(pool)
    return 1 + higher


def forget_peak() -> None:
    """Start a new peak of resident memory (Linux), without what making the data took."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--candidates", type=int, default=5_000_000)
    parser.add_argument("--questions", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "large_pool.json")
    asked = parser.parse_args()
    path = asked.folder / f"large_pool_{os.getpid()}.npy"
    rng = np.random.default_rng(2)
    runs = []
    try:
        pool = make_pool(path, asked.candidates, asked.width)
        for size in (asked.candidates // 5, asked.candidates):
            benchmark = make_benchmark(size, asked.questions)
            noise = rng.standard_normal((asked.questions, asked.width), dtype=np.float32)
            questions = np.empty_like(noise)
            order = np.argsort(benchmark.relevant)
            questions[order] = 0.25 * pool[benchmark.relevant[order]] + noise[order]
            release_pages(pool)
            settings = EvaluationSettings(
                num_shards=asked.shards, num_threads=asked.threads, consistency_questions=0, device="cpu"
            )
            forget_peak()
            start, cpu = time.perf_counter(), time.process_time()
            evaluation = evaluate(benchmark, questions, pool[:size], settings=settings)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            peak = peak_gib()
            some = np.arange(0, asked.questions, asked.questions // 8)
            expected = brute_force(pool, questions[some], benchmark.relevant[some], size)
            found = evaluation.ranks.pooled[some]
            runs.append(
                {
                    "candidates": size,
                    "questions": asked.questions,
                    "width": asked.width,
                    "shards": asked.shards,
                    "seconds": round(seconds, 1),
                    "cpu_seconds": round(cpu_seconds, 1),
                    "seconds_per_million_candidates": round(seconds / size * 1e6, 2),
                    "cpu_seconds_per_million_candidates": round(cpu_seconds / size * 1e6, 2),
                    "peak_resident_gib": round(peak, 3),
                    "map": evaluation.means["multilingual"]["micro"]["map"],
                    "checked_ranks": found.tolist(),
                    "largest_difference_to_brute_force": int(np.abs(found - expected).max()),
                }
            )
            print(json.dumps(runs[-1]), flush=True)
    finally:
        path.unlink(missing_ok=True)
    document = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch threads {torch.get_num_threads()}",
        "load_average_at_end": os.getloadavg(),
        "top_k": 100,
        "runs": runs,
    }
    asked.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
