"""Measure the time of planning and collating a global batch for corpora of three sizes.

    python benchmarks/batching/speed.py --scratch /tmp/speed --out benchmarks/results

One process, one core (OMP_NUM_THREADS=1). Corpora of 100 thousand, 1 and 10 million examples in 12
languages, 1 to 9 questions per passage, 8,192 rows per global batch. The token files of all languages are
links to one (17 GB less at ten million examples). Texts have 5 to 25 (questions) and 60 to 200 (passages)
tokens; five examples share a passage on average. Times are processor times of the process, so that other
work on the machine does not count. The table also has the fastest of 40 steps by the wall clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.batching.collate import collate
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import TokenStore
from hbt_dist.data.corpus.corpus import Corpus

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.batching.corpora import corpus_from_arrays

CODES = ("en", "fi", "ar", "es", "ja", "km", "ko", "ms", "ru", "sv", "tr", "zh")
ROWS = 8192
SIZES = (100_000, 1_000_000, 10_000_000)
FAR = 123_456


def make_corpus(num_examples: int) -> Corpus:
    """Fully parallel, passages in random order of examples."""
    random = np.random.default_rng(num_examples)
    num_passages = num_examples // 5
    passage = np.concatenate(
        [np.arange(num_passages), random.integers(0, num_passages, num_examples - num_passages)]
    )
    everything = np.ones((1, len(CODES)), bool)
    return corpus_from_arrays(
        languages=CODES,
        example_passage=np.sort(passage),
        example_cell=np.zeros(num_examples, np.int32),
        cell_questions=everything,
        cell_passages=everything,
    )


def make_store(folder: Path, corpus: Corpus) -> TokenStore:
    """Random token ids in the files of a token store."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    for role, total, low, high in (
        ("question", corpus.num_examples, 5, 26),
        ("passage", corpus.num_passages, 60, 201),
    ):
        offsets = np.concatenate([[0], np.cumsum(random.integers(low, high, total))])
        first = folder / f"{role}.{CODES[0]}"
        np.save(first.with_name(first.name + ".offsets.npy"), offsets)
        block = random.integers(4, 250_000, 1 << 22).astype(np.int32)
        with first.with_name(first.name + ".ids").open("wb") as out:
            left = int(offsets[-1])
            while left:
                out.write(block[:left].tobytes())
                left -= min(left, len(block))
        report = {"role": role, "texts": total, "tokens": int(offsets[-1]), "truncated": 0, "special_only": 0}
        for code in CODES:
            content = {**report, "language": code, "longest": high - 1}
            (folder / f"{role}.{code}.json").write_text(json.dumps(content), encoding="utf-8")
            for end in (".ids", ".offsets.npy"):
                if code != CODES[0]:
                    (folder / f"{role}.{code}{end}").symlink_to(f"{role}.{CODES[0]}{end}")
    manifest = {"fingerprint": "benchmark", "languages": CODES, "pad_id": 0}
    manifest["text"] = {"include_prompt": True}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return TokenStore(folder)


def milliseconds(action: Any, arguments: list[Any], clock: Callable[[], float] = time.process_time) -> float:
    """Median time of the action."""
    times = []
    for argument in arguments:
        start = clock()
        action(argument)
        times.append(1000 * (clock() - start))
    return statistics.median(times)


def measure(num_examples: int, scratch: Path) -> dict[str, Any]:
    """Times of one corpus size."""
    corpus = make_corpus(num_examples)
    store = make_store(scratch / f"tokens-{num_examples}", corpus)
    settings = BatchSettings(global_batch_size=ROWS, alpha=0.5)
    tracemalloc.start()
    BatchPlan(corpus, settings, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    start = time.process_time()
    plan = BatchPlan(corpus, settings, seed=1)
    build = time.process_time() - start
    far = milliseconds(plan.batch, [FAR])
    steps = list(range(40))
    plan.batch(0)
    planning = milliseconds(plan.batch, steps)
    batches = [plan.batch(step) for step in steps]
    collate(batches[0], corpus, store)
    whole = milliseconds(lambda batch: collate(batch, corpus, store), batches)
    eighth = milliseconds(lambda batch: collate(batch, corpus, store, 3, 8), batches)

    def one_step(step: int) -> None:
        collate(plan.batch(step), corpus, store)

    wall = min(milliseconds(one_step, [step], time.perf_counter) for step in steps)
    shutil.rmtree(scratch / f"tokens-{num_examples}")
    return {
        "examples": num_examples,
        "build plan, s": round(build, 2),
        "its peak memory, MB": round(peak / 1e6),
        "step 123,456 first, ms": round(far, 1),
        "plan, ms": round(planning, 1),
        "collate all rows, ms": round(whole, 1),
        "collate 1 of 8 ranks, ms": round(eighth, 1),
        "plan + collate, ms": round(planning + whole, 1),
        "fastest by the wall clock, ms": round(wall, 1),
        "per row, us": round(1000 * (planning + whole) / ROWS, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="empty folder with 3 GB of room")
    parser.add_argument("--out", type=Path, required=True, help="folder for batching_speed.json and .md")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    options = parser.parse_args()
    results = [measure(size, options.scratch) for size in options.sizes]
    report = {
        "rows": ROWS,
        "languages": len(CODES),
        "machine": f"{platform.machine()}, one core",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "load": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "batching_speed.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    head = list(results[0])
    lines = [
        f"# Planning and collating {ROWS:,} rows over {len(CODES)} languages on one core",
        "",
        "Made by `benchmarks/batching/speed.py`: medians of 40 steps, hybrid batches with alpha 0.5, no hard",
        "negatives, passages of 60 to 200 tokens, processor time unless said otherwise. Step 123,456 is",
        "the first one asked of a new plan.",
        f"Other work on the machine: load average {report['load']} on {report['cores']} cores, which the",
        "wall clock feels and the processor time does not, apart from shared caches.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---:|" * len(head),
        *("| " + " | ".join(f"{value:,}" for value in row.values()) + " |" for row in results),
        "",
    ]
    (options.out / "batching_speed.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
