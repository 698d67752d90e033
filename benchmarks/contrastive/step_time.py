"""Measure time and memory of steps on one model and the same rows: direct, cached, sentence-transformers.

    python benchmarks/contrastive/step_time.py --out benchmarks/results/step_time.json    # on a quiet machine
    python benchmarks/contrastive/step_time.py --ranks 1 --widths 256 128 64 32           # and a nested loss

About four minutes on two free cores. An XLM-R of 4 layers and width 256 with random weights; no DeepSpeed.
A round runs every method once, each round in another order, so that disturbances affect all methods. The
results are median and quartiles over rounds of wall and processor seconds, and of the ratios within a
round, which a varying load hardly changes. They include the load before and after: alone on the machine,
one rank's wall time is little more than its processor time. Memory is the peak of the resident set above
that before the step, after what earlier steps had freed went back to the system.
Gradients are compared with those of the direct step.

sentence-transformers' loss is called as its trainer would, with `gather_across_devices` on 2 ranks; the
model's gradient is then averaged by one all-reduce, which is less traffic than DDP gives it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.contrastive.loss_memory import resident
from benchmarks.contrastive.ranks import run
from benchmarks.gpu.model import batch_of, encoder_of
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import PlainEngine, TrainedModel
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings

SIZE = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 4000}
TEMPERATURE = 0.05
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BUSY = 0.3  # processes per core before anything was started


def sentence_transformer(world: World, backbone: Any, folder: str) -> Any:
    """The same weights as a SentenceTransformer with mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    if world.rank == 0:
        _save(backbone, folder)
    if world.size > 1:
        dist.barrier()
    modules = [Transformer(folder), Pooling(SIZE["hidden_size"], "mean")]
    return SentenceTransformer(modules=modules, device="cpu")


def _save(backbone: Any, folder: str) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    backbone.save_pretrained(folder)
    vocabulary = {f"w{i}": i for i in range(SIZE["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w1", unk_token="w3").save_pretrained(
        folder
    )


def steps_of(
    world: World, rows: int, chunk: int, folder: str, widths: list[int] | None
) -> tuple[dict[str, Callable[[], None]], Any, Any]:
    """A function per method that leaves its gradient, our model and theirs."""
    torch.manual_seed(0)
    encoder = encoder_of(SIZE, 0.0, "cpu")
    engine = PlainEngine(
        TrainedModel(encoder).train(),
        optimizer=OptimizerSettings(),
        total_steps=10,
        world=world,
        resolved=ResolvedDeepSpeed(),
    )
    local = batch_of(rows, SIZE["vocab_size"], (32, 64))
    local.rank, local.world_size = world.rank, world.size
    local.passage_group_N = np.arange(rows * world.size)
    for tokens, shift in ((local.questions, 0), (local.passages, 1)):
        generator = np.random.default_rng(10 + 2 * world.rank + shift)
        tokens._ids = generator.integers(4, SIZE["vocab_size"], tokens._ids.shape)

    def ours(step: StepSettings, widths: list[int] | None = None) -> Callable[[], None]:
        loss = LossSettings(temperature=TEMPERATURE, widths=widths)

        def run_step() -> None:
            engine.optimizer.zero_grad(set_to_none=True)
            contrastive_step(engine, local, loss, step, world)

        return run_step

    from sentence_transformers.sentence_transformer import losses

    model = sentence_transformer(world, encoder.backbone, folder).train()
    cached = losses.CachedMultipleNegativesRankingLoss(
        model, scale=1 / TEMPERATURE, mini_batch_size=chunk, gather_across_devices=world.size > 1
    )

    def theirs() -> None:
        model.zero_grad(set_to_none=True)
        features = []
        for tokens in (local.questions, local.passages):
            ids, mask = tokens.pad(np.arange(rows))
            features.append({"input_ids": ids, "attention_mask": mask})
        cached(features, None).backward()
        if world.size > 1:
            parameters = [p for p in model.parameters() if p.grad is not None]
            flat = torch.cat([p.grad.flatten() for p in parameters])
            dist.all_reduce(flat)
            flat /= world.size
            start = 0
            for p in parameters:
                p.grad = flat[start : start + p.numel()].view_as(p)
                start += p.numel()

    methods = {
        "direct": ours(StepSettings(mode="direct")),
        "cached": ours(StepSettings(mode="cached", chunk_rows=chunk)),
        "sentence-transformers cached": theirs,
    }
    if widths:
        methods["widths"] = ours(StepSettings(mode="cached", chunk_rows=chunk), widths)
    return methods, encoder.backbone, model[0]


def measure(
    world: World, rows: int, chunk: int, rounds: int, folder: str, widths: list[int] | None
) -> dict[str, Any]:
    """What one rank found: memory and gradients of a step of each method, then the rounds."""
    methods, mine, other = steps_of(world, rows, chunk, folder, widths)
    figures: dict[str, dict[str, Any]] = {}
    gradients = {}
    for name, method in methods.items():
        method()  # once for caches and imports
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        method()
        model = other if name.startswith("sentence") else mine
        figures[name] = {"extra_mb": round((resident("VmHWM") - before) / 1e6, 1)}
        gradients[name] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        model.zero_grad(set_to_none=True)
    want = gradients["direct"]
    for name, gradient in gradients.items():
        if name == "widths":
            continue  # the gradient of another loss
        figures[name]["gradient_error"] = float((gradient - want).norm() / want.norm())
    seconds = time_rounds(world, methods, rounds)
    for name in methods:
        for clock in CLOCKS:
            figures[name][f"{clock}_seconds"] = spread(seconds[clock][name])
    return {
        "world_size": world.size,
        "rows_per_rank": rows,
        "chunk_rows": chunk,
        "rounds": rounds,
        "widths": widths,
        "methods": figures,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        **{
            f"cached_over_{name.split()[0]}": {
                clock: spread([a / b for a, b in zip(found["cached"], found[name], strict=True)])
                for clock, found in seconds.items()
            }
            for name in methods
            if name != "cached"
        },
    }


def time_rounds(
    world: World, methods: dict[str, Callable[[], None]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Wall and processor seconds of every method in every round."""
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in methods} for clock in CLOCKS}
    names = list(methods)
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if world.size > 1:
                dist.barrier()
            start = {clock: now() for clock, now in CLOCKS.items()}
            methods[name]()
            for clock, now in CLOCKS.items():
                seconds[clock][name].append(now() - start[clock])
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    quartiles = np.percentile(values, [50, 25, 75])
    return dict(zip(("median", "lower", "upper"), (round(float(q), 3) for q in quartiles), strict=True))


def load() -> float:
    """Processes that ran or wanted to, per core, in the last minute."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def main() -> None:
    """Measure 1 and 2 ranks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=64, help="pairs of the global batch")
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--widths", nargs="+", type=int, help="also measure the cached step at these widths")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = []
    for world_size in chosen.ranks:
        before = load()
        if before > BUSY:
            print(
                f"the machine is busy: {before} processes per core; wall times will say little",
                file=sys.stderr,
            )
        with tempfile.TemporaryDirectory() as folder:
            rows = chosen.rows // world_size
            figures = run(world_size, measure, rows, chosen.chunk, chosen.rounds, folder, chosen.widths)[0]
        found.append({**figures, "load_per_core": {"before": before, "after": load()}})
        print(json.dumps(found[-1], indent=1), flush=True)
        if chosen.out:
            chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
