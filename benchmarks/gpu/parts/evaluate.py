"""Compare the evaluator's ranks on the device with the CPU's and with float64, and measure its seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.device import Context
from benchmarks.gpu.report import Figures
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.evaluation import rank_in_process
from hbt_dist.evaluation.plan import block_sizes, plan_scoring
from hbt_dist.evaluation.ranks import RelevantRanks
from hbt_dist.evaluation.settings import EvaluationSettings

#: Scores this close in float64 may change places in float32.
TIE = 1e-5
LANGUAGES = ("de", "en", "fi", "hu")


@dataclass(frozen=True)
class Pool:
    """Questions and candidates of a made-up benchmark."""

    questions: int
    candidates: int
    width: int
    predicted: str

    @property
    def name(self) -> str:
        """Return the size as text."""
        return f"{self.questions:,} x {self.candidates:,}"


POOLS = (
    Pool(13_090, 13_014, 768, "0.1 to 0.3 s with blocks of 8,192 x 8,192"),
    Pool(2048, 1_048_576, 768, "1 s; 10 s with blocks of 512 x 1,024"),
)
TINY_POOLS = (Pool(40, 90, 16, "at once"),)


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield the comparison of every pool."""
    for pool in TINY_POOLS if context.tiny else POOLS:
        if (reason := context.clock.too_long(20 if not context.tiny else 1)) is not None:
            yield pool.name, {"skipped": reason}
            continue
        yield pool.name, compare(context, pool)


def compare(context: Context, pool: Pool) -> Figures:
    """Rank twice on the device and once on the CPU, and check some questions in float64."""
    benchmark, questions, candidates = made_up(pool)
    device = context.device.torch.type
    first, seconds = ranked(benchmark, questions, candidates, device)
    second, again = ranked(benchmark, questions, candidates, device)
    cpu, cpu_seconds = ranked(benchmark, questions, candidates, "cpu")
    wrong = wrong_in_float64(context.device.torch, first, questions, candidates, benchmark)
    repeats = bool((first.pooled == second.pooled).all() and (first.scores == second.scores).all())
    tied = int(first.tied.min())
    return {
        "seconds": [round(seconds, 3), round(again, 3)],
        "predicted": pool.predicted,
        "cpu_seconds": round(cpu_seconds, 3),
        "equal_twice": repeats,
        "lowest_tied": tied,
        "ranks_unlike_the_cpus": int((first.pooled != cpu.pooled).sum()),
        "ranks_wrong_in_float64": wrong,
        "passed": repeats and tied >= 0 and wrong == 0,
    }


def made_up(pool: Pool) -> tuple[Benchmark, NDArray[np.float32], NDArray[np.float32]]:
    """Return a benchmark with one relevant candidate per question, and unit vectors that mostly find it."""
    generator = np.random.default_rng(0)
    candidates = generator.standard_normal((pool.candidates, pool.width), np.float32)
    relevant = generator.integers(0, pool.candidates, pool.questions)
    noise = generator.standard_normal((pool.questions, pool.width), np.float32)
    questions = candidates[relevant] + 3 * noise
    questions /= np.linalg.norm(questions, axis=1, keepdims=True)
    candidates /= np.linalg.norm(candidates, axis=1, keepdims=True)
    count = len(LANGUAGES)
    benchmark = Benchmark(
        name="made-up",
        variant="random",
        languages=LANGUAGES,
        question_ids=[f"q{number:08}" for number in range(pool.questions)],
        question_language=(np.arange(pool.questions) % count).astype(np.int32),
        question_texts=["question"] * pool.questions,
        question_cluster=np.arange(pool.questions),
        candidate_ids=[f"c{number:08}" for number in range(pool.candidates)],
        candidate_language=(np.arange(pool.candidates) * count // pool.candidates).astype(np.int32),
        candidate_texts=["candidate"] * pool.candidates,
        relevant_offsets=np.arange(pool.questions + 1),
        relevant=relevant,
        fingerprint="made-up",
    )
    return benchmark, questions, candidates


def ranked(
    benchmark: Benchmark, questions: NDArray[np.float32], candidates: NDArray[np.float32], device: str
) -> tuple[RelevantRanks, float]:
    """Return the ranks and the seconds that they took."""
    settings = EvaluationSettings(device=device)
    began = time.perf_counter()
    plan = plan_scoring(benchmark, *block_sizes(benchmark, on_gpu=device != "cpu"))
    ranks, _ = rank_in_process(benchmark, plan, questions, candidates, settings)
    return ranks, time.perf_counter() - began


def wrong_in_float64(
    device: torch.device,
    ranks: RelevantRanks,
    questions: NDArray[np.float32],
    candidates: NDArray[np.float32],
    benchmark: Benchmark,
    most: int = 256,
) -> int:
    """Return how many of some questions have a rank that float64 scores exclude, away from ties."""
    some = np.linspace(0, len(questions) - 1, min(most, len(questions))).astype(np.int64)
    some_questions = torch.from_numpy(questions[some]).to(device).double()
    target = torch.from_numpy(candidates[benchmark.relevant[some]]).to(device).double()
    threshold = (some_questions * target).sum(1, keepdim=True)
    surely, possibly = (torch.zeros(len(some), dtype=torch.int64, device=device) for _ in range(2))
    for start in range(0, len(candidates), 65_536):
        part = torch.from_numpy(candidates[start : start + 65_536]).to(device).double()
        scores = some_questions @ part.T
        surely += (scores > threshold + TIE).sum(1)
        possibly += (scores >= threshold - TIE).sum(1)  # itself too
    rank = ranks.pooled[some]
    return int(((rank < 1 + surely.cpu().numpy()) | (rank > possibly.cpu().numpy())).sum())
