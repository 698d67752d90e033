"""Measure encoding for evaluation: texts per second in float32, TF32 and bf16, and how far they differ.

An encoder of XLM-R base's size with random weights, texts of about 130 tokens.
The first pass meets new shapes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding

from benchmarks.gpu.device import Context
from benchmarks.gpu.model import encoder_of
from benchmarks.gpu.report import Figures
from benchmarks.gpu.sizes import SIZES, TINY
from hbt_dist.common.precision import products
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder

#: Largest difference of an embedding's entry from float32's; entries of unit vectors are about 0.03.
LIMITS = {"float32": 0.0, "TF32": 5e-3, "bfloat16": 5e-2}
#: Texts per second on an H200, from 600, 350 and 50 TFLOP/s.
PREDICTED = {"float32": "2,200 per second", "TF32": "8,000 to 10,000", "bfloat16": "8 to 12 times float32"}


@dataclass(frozen=True)
class RandomTokenizer:
    """Token ids that depend on the text's number alone."""

    vocabulary: int
    mean_tokens: int
    pad_token_id: int = 1

    def __call__(self, texts: Sequence[str], **options: Any) -> BatchEncoding:
        """Return ids of about `mean_tokens` tokens per text, at most `max_length` if that is given."""
        ids = []
        for text in texts:
            generator = np.random.default_rng(int(text))
            length = int(generator.integers(self.mean_tokens // 2, self.mean_tokens * 3 // 2))
            kept = min(length, options.get("max_length", length))
            ids.append(generator.integers(4, self.vocabulary, kept).tolist())
        return BatchEncoding({"input_ids": ids})


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield texts per second of every precision, each with its difference from float32."""
    size = TINY if context.tiny else SIZES["xlmr-base"]
    torch.manual_seed(0)
    encoder = encoder_of(size, 0.1, context.device.torch).eval()
    tokenizer = RandomTokenizer(size["vocab_size"], 12 if context.tiny else 130)
    loaded = LoadedEncoder(encoder, tokenizer, "random weights")
    few, many = (40, 80) if context.tiny else (8192, 65_536)
    reference: Any = None
    for name, count, dtype in (
        ("float32", few, "float32"),
        ("TF32", few, "float32"),
        ("bfloat16", many, "bfloat16"),
    ):
        texts = [str(number) for number in range(count)]
        settings = EvaluationSettings(device=context.device.torch.type, dtype=dtype)
        seconds = []
        for _ in range(2):
            if (reason := context.clock.too_long(1.5 * max(seconds, default=0.0))) is not None:
                yield f"{name}, second pass", {"skipped": reason}
                break
            began = time.perf_counter()
            with products("tf32" if name == "TF32" else "ieee"):
                vectors = np.asarray(
                    encode_texts(loaded, texts, "passage", settings=settings, progress=False)
                )
            seconds.append(time.perf_counter() - began)
        reference = vectors if reference is None else reference
        error = float(np.abs(vectors[:few] - reference).max())
        yield (
            name,
            {
                "texts": count,
                "seconds": [round(value, 3) for value in seconds],
                "texts_per_second": round(count / seconds[-1], 1),
                "predicted": PREDICTED[name],
                "difference": error,
                "passed": error <= LIMITS[name] * float(np.abs(reference).max()),
            },
        )
