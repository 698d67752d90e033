"""What filling up hard negatives costs a batch, and whether it grows with the corpus.

    python benchmarks/batching/negatives.py --out benchmarks/results

One process, one core (OMP_NUM_THREADS=1). Monolingual sources in 14 languages: every passage has one of them
and is the passage of one example; the data hold no hard negatives, so every one is a random passage in its
row's language. 1,024 rows, monolingual batches, 4 hard negatives each. Processor times.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.corpus import Corpus

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.batching.corpora import corpus_from_arrays

LANGUAGES = 14
ROWS = 1024
SIZES = (1_000_000, 10_000_000)


def make_corpus(num_passages: int) -> Corpus:
    """Passages of 14 languages, in random order."""
    monolingual = np.eye(LANGUAGES, dtype=bool)
    language = np.random.default_rng(1).integers(0, LANGUAGES, num_passages).astype(np.int32)
    return corpus_from_arrays(
        languages=[f"l{number}" for number in range(LANGUAGES)],
        example_passage=np.arange(num_passages),
        example_cell=language,
        cell_questions=monolingual,
        cell_passages=monolingual,
    )


def measure(num_passages: int, steps: int) -> dict[str, Any]:
    """Times of one corpus size."""
    corpus = make_corpus(num_passages)
    row: dict[str, Any] = {"passages": num_passages}
    for count in (0, 4):
        block = {"global_batch_size": ROWS, "alpha": 1.0, "hard_negatives": {"count": count}}
        plan = BatchPlan(corpus, BatchSettings.model_validate(block), seed=1)
        times = []
        for step in range(steps + 1):
            start = time.process_time()
            plan.batch(step)
            times.append(time.process_time() - start)
        row[f"{count} negatives: first batch, ms"] = round(1000 * times[0], 1)
        row[f"{count} negatives: median of the next, ms"] = round(1000 * statistics.median(times[1:]), 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for batching_negatives.json and .md")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    results = [measure(size, options.steps) for size in options.sizes]
    report = {
        "rows": ROWS,
        "languages": LANGUAGES,
        "steps": options.steps,
        "machine": f"{platform.machine()}, one core",
        "numpy": np.__version__,
        "results": results,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / "batching_negatives.json"
    target.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"# Filling up hard negatives: {ROWS:,} rows, monolingual sources in {LANGUAGES} languages, one core",
        "",
        "Made by `benchmarks/batching/negatives.py`: processor time of a batch, median of",
        f"{options.steps} after the first one. The data hold no hard negatives, so all 4 of a row are random",
        "passages in its language. The first batch makes the list that they are drawn from, 4 bytes per",
        "passage.",
        "",
        "| " + " | ".join(results[0]) + " |",
        "|" + "---:|" * len(results[0]),
        *("| " + " | ".join(f"{value:,}" for value in row.values()) + " |" for row in results),
        "",
    ]
    (options.out / "batching_negatives.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
