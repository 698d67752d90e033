"""Time of mining negatives from given embeddings, next to faiss alone.

    python benchmarks/mining/speed.py --scratch DIR --out benchmarks/results

Two pools of random vectors of length 1: `random` (a normal distribution) and `clustered` (2,000 centres, 0.3
of noise). Half of the questions belong to each pool; a question is near its passage. For every block of
examples, alternately first: faiss.knn over the whole pool, which is in memory as one array, with the k of the
miner's search; and `mine_block`, which reads the pool from a file, searches it, scores the pairs exactly,
leaves out the group, selects 4 negatives below a margin of 5 %, and writes the block's file. Wall time and
processor time of both, in one process. Peak: private memory above that before the first block, every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.mining.blocks import MiningPlan, block_memory, join_blocks, mine_block
from hbt_dist.mining.search import EXTRA
from hbt_dist.mining.settings import MiningSettings
from tests.batching.corpora import corpus_from_arrays

CENTRES, NOISE = 2000, 0.3


def unit(matrix: Any) -> Any:
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix


def make_vectors(kind: str, passages: int, questions: int, width: int, scratch: Path) -> tuple[Any, Any, Any]:
    """Vectors of passages (in a file) and of questions, and the passage of each question."""
    random = np.random.default_rng(1 if kind == "random" else 2)
    pool = random.standard_normal((passages, width), np.float32)
    if kind == "clustered":
        centres = random.standard_normal((CENTRES, width), np.float32)
        pool = centres[random.integers(0, CENTRES, passages)] + np.float32(NOISE) * pool
    pool = unit(pool)
    positive = random.choice(passages, questions, replace=False)
    near = unit(pool[positive] + random.standard_normal((questions, width), np.float32) * np.float32(0.1))
    np.save(scratch / f"{kind}.npy", pool)
    return np.load(scratch / f"{kind}.npy", mmap_mode="r"), near, positive


def make_plan(kind: str, options: argparse.Namespace, scratch: Path) -> MiningPlan:
    pool, questions, positive = make_vectors(
        kind, options.passages, options.questions // 2, options.width, scratch
    )
    corpus = corpus_from_arrays(
        languages=["en"],
        example_passage=positive,
        example_cell=np.zeros(len(positive), np.int32),
        cell_questions=np.ones((1, 1), bool),
        cell_passages=np.ones((1, 1), bool),
        passage_languages=np.ones((len(pool), 1), bool),
    )
    settings = MiningSettings(count=4, relative_margin=0.05, examples_per_block=options.block)
    return MiningPlan(
        corpus=corpus,
        settings=settings,
        seed=0,
        folder=scratch / f"{kind}-blocks",
        questions=questions,
        candidates=pool,
    )


class Clock:
    """Adds wall time, processor time and peak of private memory of calls."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0
        self.peak = 0
        self.before = private_bytes()

    def call(self, function: Callable[[], Any]) -> Any:
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        watcher.start()
        wall, processor = time.perf_counter(), time.process_time()
        try:
            return function()
        finally:
            self.wall += time.perf_counter() - wall
            self.processor += time.process_time() - processor
            ended.set()
            watcher.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.02):
            self.peak = max(self.peak, private_bytes() - self.before)


def private_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line)
    return int(line.split()[1]) * 1024


def measure(kind: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    plan = make_plan(kind, options, scratch)
    whole = np.array(plan.candidates)
    depth = plan.settings.window + EXTRA
    alone, miner = Clock(), Clock()
    nearest = []
    for number in range(plan.num_blocks):
        questions = plan.questions[plan.examples(number).start : plan.examples(number).stop]

        def search(questions: Any = questions) -> None:
            nearest.append(faiss.knn(questions, whole, depth, metric=faiss.METRIC_INNER_PRODUCT)[1])

        def mine(number: int = number) -> None:
            mine_block(plan, number, num_threads=options.threads)

        turns = [(alone, search), (miner, mine)]
        for clock, function in turns if number % 2 else reversed(turns):
            clock.call(function)
    mined = join_blocks(plan)
    return {
        "pool": kind,
        "questions": plan.corpus.num_examples,
        "k": depth,
        "faiss_seconds": round(alone.wall, 1),
        "miner_seconds": round(miner.wall, 1),
        "ratio": round(miner.wall / alone.wall, 3),
        "faiss_processor_seconds": round(alone.processor, 1),
        "miner_processor_seconds": round(miner.processor, 1),
        "processor_ratio": round(miner.processor / alone.processor, 3),
        "faiss_peak_mb": round(alone.peak / 1e6),
        "miner_peak_mb": round(miner.peak / 1e6),
        "block_memory_mb": round(block_memory(plan.settings, options.width, 1) / 1e6),
        "in_faiss_lists": share_in_lists(mined, np.concatenate(nearest)),
        "unfilled": mined.counts["shares"]["any"]["unfilled"],
    }


def share_in_lists(mined: Any, nearest: Any) -> float:
    """Share of the mined negatives that are in faiss's list of the question."""
    owner = np.repeat(np.arange(mined.num_examples), np.diff(mined.offsets))
    return float((nearest[owner] == mined.passage[:, None]).any(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder for vectors and blocks")
    parser.add_argument("--out", type=Path, required=True, help="folder for mining_speed.json and .md")
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--block", type=int, default=4096, help="examples per block")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    faiss.omp_set_num_threads(options.threads)
    options.scratch.mkdir(parents=True, exist_ok=True)
    results = []
    for kind in ("random", "clustered"):
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            results.append(measure(kind, options, Path(folder)))
            print(json.dumps(results[-1]), flush=True)
    report = {
        "passages": options.passages,
        "questions": options.questions,
        "width": options.width,
        "examples_per_block": options.block,
        "machine": f"{platform.machine()}, {options.threads} threads",
        "faiss": faiss.__version__,
        "results": results,
    }
    (options.out / "mining_speed.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (options.out / "mining_speed.md").write_text(table(report), "utf-8")


def table(report: dict[str, Any]) -> str:
    names = [
        ("pool", "pool"),
        ("questions", "questions"),
        ("faiss_seconds", "faiss alone, s"),
        ("miner_seconds", "miner, s"),
        ("ratio", "ratio"),
        ("processor_ratio", "ratio of processor time"),
        ("faiss_peak_mb", "faiss's peak, MB"),
        ("miner_peak_mb", "miner's peak, MB"),
        ("block_memory_mb", "`block_memory`, MB"),
    ]
    size = 4 * report["passages"] * report["width"] / 1e6
    lines = [
        f"# Mining {report['passages']:,} passages x {report['questions']:,} questions, next to faiss alone",
        "",
        "Made by `benchmarks/mining/speed.py`, which describes the measurement. Two pools of this size,",
        f"half of the questions each. Width {report['width']}, blocks of "
        f"{report['examples_per_block']:,} examples, k {report['results'][0]['k']}, {report['machine']},",
        f"faiss {report['faiss']}.",
        f"The pool itself ({size:,.0f} MB) is in memory for faiss alone, on top of its peak; the miner reads",
        "a file.",
        "",
        "| " + " | ".join(title for _, title in names) + " |",
        "|---|" + "---:|" * (len(names) - 1),
    ]
    for row in report["results"]:
        lines.append(
            "| " + " | ".join(f"{row[name]:,}" if name != "pool" else row[name] for name, _ in names) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
