"""Measure whole cached steps: tokens per second, model FLOP utilisation and peak memory, by engine and chunk.

Encoders of XLM-R's size with random weights, questions of 64 and passages of 192 tokens, AdamW included. The
first global batch is measured with every engine and chunk; larger ones with the best of them, with compiled
layers and with kept graphs. A step of 2,048 rows runs first and does not count. Chunks that do not fit are
halved.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device import Context
from benchmarks.gpu.model import batch_of, encoder_of, engine_of
from benchmarks.gpu.rates import peak_flops_of
from benchmarks.gpu.report import Figures
from benchmarks.gpu.sizes import SIZES, TINY, Size, model_flops
from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.models.compilation import compile_layers
from hbt_dist.training.chunk_size import graph_bytes, kept_tokens
from hbt_dist.training.deepspeed.engine import Engine
from hbt_dist.training.deepspeed.settings import (
    DeepSpeedSettings,
    Precision,
    ResolvedDeepSpeed,
    resolve_deepspeed,
)
from hbt_dist.training.memory import free_bytes

#: What roofline.py predicted for 32,768 pairs on one H200.
PREDICTIONS = Path(__file__).resolve().parents[2] / "results" / "roofline.json"
LOSS = LossSettings(row_chunk=1024, products="tf32")
TIMERS = {"timers": {"throughput": {"enabled": True, "synchronized": True}}}


@dataclass(frozen=True)
class Case:
    """A way to compute the step."""

    engine: str
    chunk_tokens: int
    chunk_rows: int
    padded: bool
    lengths: tuple[int, int] = (64, 192)
    kept: bool = False  # keep as many graphs as memory allows

    @property
    def name(self) -> str:
        """Return the case as text."""
        chunk = f"rows {self.chunk_rows}" if self.chunk_rows <= 4096 else f"{self.chunk_tokens:,} tokens"
        return f"{self.engine}, {chunk}, {'padded' if self.padded else 'equal lengths'}"


@dataclass(frozen=True)
class Way:
    """An engine, and what else may make it faster; `later`: only measured with larger global batches."""

    resolved: Callable[[], ResolvedDeepSpeed]
    compiled: bool = False
    kept: bool = False
    later: bool = False


def ways_of(context: Context) -> dict[str, Way]:
    """Return the engines to measure by name."""
    kind = context.device.torch.type
    copy: Precision = "fp32" if context.tiny else "bf16_copy"
    low: Precision = "fp32" if context.tiny else "bf16_autocast"

    def shipped(precision: Precision = "fp32", more: dict[str, Any] | None = None) -> ResolvedDeepSpeed:
        settings = DeepSpeedSettings(config=1, precision=precision)
        resolved = resolve_deepspeed(settings, gradient_clipping=1.0, device_type=kind)
        return replace(resolved, config={**(resolved.config or {}), **(more or {})})

    ways = {
        "plain": Way(lambda: ResolvedDeepSpeed(precision=low)),
        "plain, bf16 copy": Way(lambda: ResolvedDeepSpeed(precision=copy)),
    }
    copied, name = ways["plain, bf16 copy"], "plain, bf16 copy"
    if importlib.util.find_spec("deepspeed") is not None and context.engine != "plain":
        name, copied = "ZeRO-1, bf16 copy", Way(lambda: shipped(copy))
        ways = {} if context.engine == "deepspeed" else {"plain": ways["plain"]}
        ways |= {"ZeRO-1": Way(shipped), "ZeRO-1, timers on": Way(lambda: shipped(more=TIMERS)), name: copied}
    if not context.tiny:  # compiling takes longer than a test may
        ways[f"{name}, compiled"] = replace(copied, compiled=True, later=True)
    ways[f"{name}, kept graphs"] = replace(copied, compiled=not context.tiny, kept=True, later=True)
    return ways


def cases_of(context: Context, engine: str) -> list[Case]:
    """Return every chunk size, with rows of equal length and with padded rows."""
    tokens, rows = (48, (4,)) if context.tiny else (65_536, context.chunk_rows or (64,))
    lengths = (6, 12) if context.tiny else (64, 192)
    chunks = [(tokens, 1 << 20), *((1 << 30, limit) for limit in rows)]
    padded = (False, True) if context.padded is None else (context.padded,)
    return [Case(engine, *chunk, is_padded, lengths) for is_padded in padded for chunk in chunks]


@dataclass
class Best:
    """The fastest case so far, and how long its slowest peer took."""

    case: Case | None = None
    pairs_per_second: float = 0.0
    seconds_per_row: float = 0.0

    @property
    def engine(self) -> str:
        """Name of its engine, empty before anything was measured."""
        return "" if self.case is None else self.case.engine

    def note(self, case: Case, rows: int, figures: Figures) -> None:
        """Take in what was measured; a case that was skipped changes nothing."""
        if "seconds" not in figures:
            return
        self.seconds_per_row = max(self.seconds_per_row, figures["seconds"] / rows)
        if figures["pairs_per_second"] > self.pairs_per_second:
            self.case, self.pairs_per_second = case, figures["pairs_per_second"]


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield the steps of every model, from small batches to large ones, then a profile of a chunk."""
    sizes = {"tiny": TINY} if context.tiny else {name: SIZES[name] for name in context.models}
    batches = (8, 12) if context.tiny else tuple(sorted(context.global_batches))
    ways = ways_of(context)
    for model, size in sizes.items():
        best = Best()
        for rows in batches:
            first = best.case is None
            for name, way in ways.items():
                if way.later if first else not (way.later or name == best.engine):
                    continue
                cases = cases_of(context, name)
                if best.case is not None and not first:
                    cases = [replace(best.case, engine=name)] if not way.kept else cases[:1]
                engine = build(context, size, way)
                for case in cases:
                    shape, label = (model, size), f"{model}, {rows:,} pairs, {case.name}"
                    yield label, measured(context, engine, shape, rows, replace(case, kept=way.kept), best)
                del engine
                context.device.reset()
        if best.case is not None and context.clock.too_long(5) is None:
            yield (
                f"{model}, profile",
                profile(context, build(context, size, ways[best.engine]), size, best.case),
            )


def build(context: Context, size: Size, way: Way) -> Engine:
    """Return the engine of a way, compiled if it says that."""
    torch.manual_seed(0)
    encoder = encoder_of(size, 0.1, context.device.torch)
    if way.compiled:
        compile_layers(encoder.backbone, context.device.torch)
    return engine_of(context.device.torch, size, 0.1, way.resolved(), encoder)


def measured(
    context: Context, engine: Engine, model: tuple[str, Size], rows: int, case: Case, best: Best
) -> Figures:
    """Return the figures of a case, or that it would take too long."""
    reason = context.clock.too_long(best.seconds_per_row * rows * context.steps * 1.5)
    if reason is not None:
        return {"skipped": reason}
    figures = step_that_fits(context, engine, model[1], rows, case)
    best.note(case, rows, figures)
    return {"predicted_mfu": predicted_mfu(model[0], case), **figures}


def predicted_mfu(model: str, case: Case) -> float | None:
    """Return the predicted utilisation of the nearest code in roofline.json; None for other models."""
    if "compiled" in case.engine or case.kept:
        code = "compiled layers"
    elif "bf16 copy" in case.engine:
        code = "bf16 copy of the weights, ready masks" if case.padded else "no masks"
    elif case.chunk_rows <= 64:
        code = "first wave: float32 weights, autocast, masks, 64 rows"
    else:
        code = "the same, 65,536 tokens"
    rows = json.loads(PREDICTIONS.read_text("utf-8")).get(model, [])
    return next((row["mfu"] for row in rows if row["code"]["name"] == code), None)


def step_that_fits(context: Context, engine: Engine, size: Size, rows: int, case: Case) -> Figures:
    """Measure a step, with chunks of half the tokens as long as memory does not suffice."""
    tokens = case.chunk_tokens
    while tokens >= max(case.lengths):
        try:
            figures = measure_steps(context, engine, size, rows, replace(case, chunk_tokens=tokens))
            return {"chunk_tokens": tokens, **figures}
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        # Here the error is gone, and with it the tensors of the frames that it held.
        engine.optimizer.zero_grad(set_to_none=True)
        context.device.reset()
        tokens //= 2
    return {"skipped": "out of memory", "chunk_tokens": case.chunk_tokens}


def measure_steps(context: Context, engine: Engine, size: Size, rows: int, case: Case) -> Figures:
    """Return seconds, utilisation and memory of the contrastive step and AdamW."""
    device = context.device
    before = device.reset()
    step = StepSettings(mode="cached", chunk_rows=case.chunk_rows, chunk_tokens=case.chunk_tokens)
    if case.kept:
        tokens = tokens_to_keep(context, engine, case)
        step = step.model_copy(update={"mode": "auto", "kept_tokens": tokens})
    seconds = []
    for index, num_rows in enumerate([min(rows, 2048), *[rows] * context.steps]):
        batch = batch_of(num_rows, size["vocab_size"], case.lengths, fixed=not case.padded)
        device.sync()
        began = time.perf_counter()
        figures = contrastive_step(engine, batch, LOSS, step, engine.world)
        norm = engine.step(index)
        device.sync()
        seconds.append(time.perf_counter() - began)
    median = sorted(seconds[1:])[len(seconds[1:]) // 2]
    parameters = sum(p.numel() for p in engine.model.parameters())
    flops = model_flops(size, parameters, rows, case.lengths)
    flops *= figures.num_tokens / (rows * sum(case.lengths))
    peak, memory = peak_flops_of(str(device.facts().get("device"))), device.peak()
    return {
        "seconds": round(median, 4),
        "pairs_per_second": round(rows / median, 1),
        "tokens_per_second": round(figures.num_tokens / median),
        "padding": round(1 - figures.num_tokens / figures.num_padded_tokens, 3),
        "chunks": figures.num_chunks,
        "kept_chunks": figures.num_kept_chunks,
        "model_tflops_per_second": round(flops / median / 1e12, 3),
        "mfu": None if peak is None else round(flops / median / peak, 4),
        "peak_gb": None if memory is None else round((memory - before) / 1e9, 2),
        "loss": figures.loss,
        "gradient_norm": norm,
    }


def tokens_to_keep(context: Context, engine: Engine, case: Case) -> int:
    """Return the tokens whose graphs fit, as the package measures them for `kept_tokens: auto`."""
    if context.tiny:
        return 2 * case.chunk_tokens
    device, encoder = context.device.torch, engine.model.encoder
    per_token = graph_bytes(encoder, case.lengths[1], device, autocast=engine.resolved.low_precision)
    gradients = 2 * 4 * sum(parameter.numel() for parameter in encoder.parameters())
    return kept_tokens(free_bytes(device) - gradients, per_token, case.chunk_tokens)


def profile(context: Context, engine: Engine, size: Size, case: Case) -> Figures:
    """Return the 12 kernels that take most of the time of a chunk's forward and backward."""
    device = context.device
    rows = max(1, min(case.chunk_rows, case.chunk_tokens // case.lengths[1]))
    batch = batch_of(rows, size["vocab_size"], case.lengths, fixed=not case.padded)
    step = StepSettings(mode="direct")

    def once() -> None:
        contrastive_step(engine, batch, LOSS, step, engine.world)
        engine.optimizer.zero_grad(set_to_none=True)

    once()
    activities = torch.profiler.supported_activities()
    on_gpu = torch.profiler.ProfilerActivity.CUDA in activities
    with torch.profiler.profile(activities=activities) as recorded:
        once()
        device.sync()
    events = recorded.key_averages()

    def seconds(event: Any) -> float:
        return float(event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6

    largest = sorted(events, key=seconds, reverse=True)[:12]
    total = sum(seconds(event) for event in events)
    return {
        "rows": rows,
        "seconds": round(total, 5),
        "largest": {event.key[:100]: [round(seconds(event), 6), event.count] for event in largest},
    }
