"""Predict the seconds of ranking on one H200, without a GPU, from the kernels of the package's device shard.

    python benchmarks/gpu/evaluator.py

One block of 8,192 questions x 8,192 candidates runs on tensors without data (`tally.py`); its kernels become
seconds at the rates of `rates.py`. Nothing here is a measurement. torch's selection of the k largest reads
its 64-bit keys two bits at a time, 32 times; a row of them fits the L2 cache, so their traffic is an upper
limit. Reading candidates from the host and copying them are left out. Needs a C++ compiler.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.rates import Rates

WIDTH, TOP_K, SELECTION_READS = 768, 100, 32
#: Questions, candidates, relevant candidates per question.
POOLS = ((13_090, 13_014, 11), (2_048, 1_048_576, 1), (10_000, 10_000_000, 1))


def main() -> None:
    """Print the parts of a block and the seconds of some pools."""
    from tests.pretended_gpu import load_guard

    load_guard()  # before torch is imported
    rates, block = Rates(), 8192
    parts = {relevant: block_parts(block, relevant, rates) for relevant in (1, 11)}
    print("| relevant per question | product ms | counts ms | lists ms | kernels | host ms |")
    print("|---" * 6 + "|")
    for relevant, part in parts.items():
        shown = (f"{part[name] * 1e3:.2f}" for name in ("product", "counts", "lists"))
        host = part["kernels"] * rates.host_seconds * 1e3
        print(f"| {relevant} | {' | '.join(shown)} | {part['kernels']:.0f} | {host:.2f} |")
    for questions, candidates, relevant in POOLS:
        blocks = [-(-number // block) for number in (questions, candidates)]
        # Small pools have smaller blocks, in steps of 512.
        share = math.prod(min(1.0, -(-number // 512) * 512 / block) for number in (questions, candidates))
        # Questions have the order of their candidates: a block of candidates has the relevant ones of about
        # one block of questions, and that product is made twice.
        products = blocks[1] * (blocks[0] + 1) * parts[relevant]["product"]
        lists, counts = (math.prod(blocks) * parts[relevant][name] for name in ("lists", "counts"))
        pool = f"{questions:,} x {candidates:,}, {relevant} relevant"
        print(f"{pool}: {share * (products + counts + lists):.2f} s, {share * lists:.2f} of them for lists")


def block_parts(block: int, relevant: int, rates: Rates) -> dict[str, float]:
    """Return the seconds of product, counts and lists of one block, and the number of kernels."""
    import numpy as np
    import torch

    from benchmarks.gpu.tally import Tally, kernel_seconds, pretended_h200
    from hbt_dist.evaluation.device_shard import RelevantCounts, merge_top

    pairs = block * relevant
    plan: Any = SimpleNamespace(
        block_questions=block,
        id_order=np.arange(block, dtype=np.uint32),
        relevant_position=np.arange(pairs) % block,
        pairs_of=lambda _: (slice(0, pairs), np.repeat(np.arange(block), relevant)),
        language_of=np.zeros_like,
        relevant_range=lambda _: slice(0, pairs),
    )
    seconds: dict[str, float] = {"kernels": 0}
    with pretended_h200():
        device = torch.device("cuda", 0)
        questions, candidates = (torch.empty((block, WIDTH), device=device) for _ in range(2))
        scores, ids = torch.empty((block, block), device=device), torch.arange(block, device=device)
        top = torch.empty((block, TOP_K), dtype=torch.int64, device=device)
        counts = RelevantCounts(plan, range(1), np.zeros(pairs, np.float32), device)
        work = {
            "product": lambda: torch.mm(questions, candidates.T, out=scores),
            "counts": lambda: counts.add(0, scores, ids, [(0, block, 0)]),
            "lists": lambda: merge_top(top, scores, ids),
        }
        for name, run in work.items():
            with Tally() as tally:
                run()
            selected = [kernel for kernel in tally.kernels if kernel.name == "topk"]
            reads = (SELECTION_READS - 1) * sum(sum(kernel.reads.values()) for kernel in selected)
            times = (kernel_seconds(kernel, rates) for kernel in tally.kernels)
            seconds[name] = sum(times) + reads / rates.bytes_per_second
            seconds["kernels"] += len(tally.kernels)
    return seconds


if __name__ == "__main__":
    main()
