"""Compare encoding with sentence-transformers: the same model, the same texts, in turn.

    python benchmarks/evaluation/encode.py --model MODEL [--data-dir DATA/xquad-r]

Texts are the candidates of XQuAD-R in English with and without their paragraphs, or those of the embedded
sample. Both sort by length; sentence-transformers then takes 32 (its default) or 128 texts at once, ours as
many as `max_tokens_per_batch` admits. Processor seconds with tokenising, medians over rounds.
Writes benchmarks/results/encode.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.loading import load_encoder


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder of a sentence-transformers model")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "encode.json")
    asked = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    texts = some_texts(asked.data_dir)[: asked.texts]
    theirs = SentenceTransformer(asked.model, device="cpu")
    longest = int(theirs.max_seq_length or 512)
    ours = load_encoder(asked.model, text={"max_passage_tokens": longest})
    settings = EvaluationSettings(device="cpu")
    ways: dict[str, Callable[[], Any]] = {
        "hbt_dist": lambda: encode_texts(ours, texts, "passage", settings=settings, progress=False),
        **{
            f"sentence-transformers, batches of {size}": lambda size=size: theirs.encode(
                texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False
            )
            for size in (32, 128)
        },
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, np.ndarray[Any, Any]] = {}
    for round_number in range(asked.rounds + 1):
        for name, call in ways.items():
            start = time.process_time()
            found[name] = np.asarray(call())
            if round_number:  # the first warms up
                seconds[name].append(time.process_time() - start)
    reference = found["hbt_dist"]
    rows = [
        {
            "tool": name,
            "cpu_seconds": round(statistics.median(times), 2),
            "texts_per_cpu_second": round(len(texts) / statistics.median(times), 1),
            "times_ours": round(statistics.median(times) / statistics.median(seconds["hbt_dist"]), 3),
            "largest_difference": float(np.abs(found[name] - reference).max()),
        }
        for name, times in seconds.items()
    ]
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, torch threads {torch.get_num_threads()}",
        "load_average": os.getloadavg(),
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "rounds": asked.rounds,
        "runs": rows,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


def some_texts(data_dir: Path | None) -> list[str]:
    """Passages of very different lengths, in English."""
    if data_dir is None:
        benchmark = load_benchmark("sample", None, languages=("en",))
    else:
        benchmark = load_benchmark("xquad-r", data_dir, variant="sentence+context", languages=("en",))
        plain = load_benchmark("xquad-r", data_dir, variant="sentence", languages=("en",))
        pairs = zip(benchmark.candidate_texts, plain.candidate_texts, strict=True)
        return [text for pair in pairs for text in pair]
    return list(benchmark.candidate_texts)


if __name__ == "__main__":
    main()
