"""Check the contrastive step on one GPU and measure it; writes JSON.

    python benchmarks/gpu/check.py --out gpu.json
    python benchmarks/gpu/check.py --out gpu.json --seconds 540    # where a command may take ten minutes
    python benchmarks/gpu/check.py --device cpu --tiny    # the same code, tiny sizes: 30 processor seconds

Four parts; what is missing or does not fit is skipped with its reason:

* equalities, in float32 and bf16 autocast: cached = direct = plain autograd over the whole B x N matrix, with
  every kernel of the loss that runs here; dropout that repeats; each kernel = float64 on given embeddings.
* deepspeed: every ZeRO stage passes the self-check.
* loss: seconds and peak extra memory of the loss alone, kernel by kernel, B from 4,096 to 131,072.
* training: tokens per second, model FLOP utilisation and peak memory of whole cached steps (AdamW included,
  questions of 32 and passages of 128 tokens) for encoders of XLM-R-base and XLM-R-large size with random
  weights, at global batches of 8k, 32k and 128k pairs on this GPU. Chunks that do not fit are halved.

Needs torch 2.11, transformers, pydantic and PyYAML, and no installed hbt-dist. DeepSpeed, Ray and faiss are
imported only if they are installed. The JSON is written after every part and every measurement.

Model FLOPs count 6 per matrix parameter and token plus 12 * layers * hidden * length for attention, without
the embedding table; the second forward of the cached step is work, not model FLOPs, and lowers the figure.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
    import transformers  # noqa: F401  (the encoder needs it)
    from torch import Tensor

    from benchmarks.gpu.equalities import KERNELS, check_deepspeed, check_equalities, check_kernels
    from benchmarks.gpu.model import Device, Size, batch_of, engine_of, out_of_memory
    from hbt_dist.contrastive.layout import Layout
    from hbt_dist.contrastive.loss import contrast
    from hbt_dist.contrastive.row_losses import why_not
    from hbt_dist.contrastive.settings import LossSettings, StepSettings
    from hbt_dist.contrastive.step import contrastive_step
except ModuleNotFoundError as error:
    sys.exit(f"{error}: the script needs torch, transformers, pydantic and PyYAML")

# Dense peak of bf16 matrix products with float32 sums, FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}
SIZES = {
    "xlmr-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 250002,
    },
    "560M": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 250002},
}
TINY = {"tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}}
# Heads of 64, as the real models have: the choice of an attention kernel, and its dropout, depend on it.
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}
PARTS = ["equalities", "deepspeed", "loss", "training"]


class Clock:
    """How much of the allowed time is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def too_long(self, seconds: float) -> str | None:
        """Return why a check of this duration does not start; None if it fits."""
        left = self._end - time.monotonic()
        if seconds <= left:
            return None
        return f"would take about {seconds:.0f} s, {max(left, 0):.0f} s are left"


def measure_losses(device: Device, batches: list[int], width: int, clock: Clock) -> Iterator[dict[str, Any]]:
    """Every kernel on the same embeddings, from small batches to large ones."""
    kernels = [kernel for kernel in KERNELS if why_not(kernel, device.torch) is None]
    seconds = 0.0  # of everything at the last size, which grows with the square
    for index, rows in enumerate(batches):
        began = time.monotonic()
        growth = (rows / batches[index - 1]) ** 2 if index else 1.0
        if (reason := clock.too_long(seconds * growth)) is not None:
            yield {"rows": rows, "skipped": reason}
            seconds *= growth
            continue
        generator = torch.Generator(device.torch).manual_seed(0)
        q, p = (
            F.normalize(torch.randn(rows, width, device=device.torch, generator=generator), dim=-1)
            for _ in range(2)
        )
        for row_chunk in (256, 1024):
            for kernel in kernels:
                figures: dict[str, Any] = {"rows": rows, "row_chunk": row_chunk, "kernel": kernel}
                try:
                    figures |= measure_loss(device, q, p, LossSettings(row_chunk=row_chunk, kernel=kernel))
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    figures["skipped"] = "out of memory"
                yield figures
        seconds = time.monotonic() - began


def measure_loss(device: Device, q: Tensor, p: Tensor, settings: LossSettings) -> dict[str, Any]:
    """Median seconds of three, and extra memory, of loss and gradients on given embeddings."""
    rows, width = q.shape
    few = min(settings.row_chunk, rows)
    # One chunk, as one of many ranks would have it: compilation and workspaces.
    contrast(q[:few], p, Layout(0, rows // few, few, 0), settings, scale=20.0)
    before = device.reset()
    seconds = []
    for _ in range(3):
        device.sync()
        start = time.perf_counter()
        loss = contrast(q, p, Layout(0, 1, rows, 0), settings, scale=20.0).loss
        device.sync()
        seconds.append(time.perf_counter() - start)
    peak = device.peak()
    gradients = 2 * rows * width * 4
    return {
        "seconds": round(float(np.median(seconds)), 5),
        "extra_mb": None if peak is None else round((peak - before - gradients) / 1e6, 1),
        "plain_matrix_mb": round(rows * rows * 4 / 1e6, 1),
        "loss": float(loss),
    }


def measure_training(
    device: Device, sizes: dict[str, Size], batches: list[int], plan: dict[str, Any], clock: Clock
) -> Iterator[dict[str, Any]]:
    """Whole steps of every model, from small batches to large ones."""
    for name, size in sizes.items():
        seconds_per_row, chunk_tokens, full = 0.0, plan["chunk_tokens"], False
        for rows in sorted(batches):
            figures: dict[str, Any] = {"model": name, "global_batch_size": rows, **plan}
            reason = clock.too_long(seconds_per_row * rows * plan["steps"] * 1.1)
            if full or reason is not None:
                yield {**figures, "skipped": "out of memory with fewer rows" if full else reason}
                continue
            figures |= measure_steps_that_fit(device, size, rows, {**plan, "chunk_tokens": chunk_tokens})
            yield figures
            chunk_tokens, full = figures["chunk_tokens"], "skipped" in figures
            seconds_per_row = figures.get("seconds_per_step", 0.0) / rows


def measure_steps_that_fit(device: Device, size: Size, rows: int, plan: dict[str, Any]) -> dict[str, Any]:
    """`measure_steps`, with chunks of half the tokens as long as memory does not suffice."""
    tokens = plan["chunk_tokens"]
    while tokens >= max(plan["lengths"]):
        try:
            return {
                "chunk_tokens": tokens,
                **measure_steps(device, size, rows, {**plan, "chunk_tokens": tokens}),
            }
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        # Here the error is gone, and with it the tensors of the frames that it held.
        device.reset()
        tokens //= 2
    return {"skipped": "out of memory", "chunk_tokens": plan["chunk_tokens"]}


def measure_steps(device: Device, size: Size, rows: int, plan: dict[str, Any]) -> dict[str, Any]:
    """Seconds and memory of cached step and AdamW, after a step of a few full chunks."""
    before = device.reset()
    engine = engine_of(device, plan["precision"], size, dropout=0.1)
    step = StepSettings(mode="cached", chunk_rows=plan["chunk_rows"], chunk_tokens=plan["chunk_tokens"])
    seconds = []
    for index, num_rows in enumerate([min(rows, 2048), *[rows] * plan["steps"]]):
        batch = batch_of(num_rows, size["vocab_size"], plan["lengths"], fixed=True)
        device.sync()
        start = time.perf_counter()
        figures = contrastive_step(engine, batch, LossSettings(row_chunk=1024), step, engine.world)
        norm = engine.step(index)
        device.sync()
        seconds.append(time.perf_counter() - start)
    median = float(np.median(seconds[1:]))
    parameters = sum(p.numel() for p in engine.model.parameters())
    matrices = parameters - size["vocab_size"] * size["hidden_size"]
    attention = sum(
        12 * size["num_hidden_layers"] * size["hidden_size"] * length * length * rows
        for length in plan["lengths"]
    )
    flops = 6 * matrices * figures.num_tokens + attention
    peak_flops = next((v for k, v in PEAK_FLOPS.items() if k in str(device.facts().get("device"))), None)
    peak = device.peak()
    return {
        "parameters": parameters,
        "seconds_per_step": round(median, 3),
        "pairs_per_second": round(rows / median, 1),
        "tokens_per_second": round(figures.num_tokens / median),
        "model_tflops_per_second": round(flops / median / 1e12, 2),
        "mfu": None if peak_flops is None else round(flops / median / peak_flops, 3),
        "peak_gb": None if peak is None else round((peak - before) / 1e9, 2),
        "loss": figures.loss,
        "gradient_norm": norm,
    }


class Report:
    """The JSON, written again with everything that is found."""

    def __init__(self, out: Path | None, facts: dict[str, Any]) -> None:
        self.found = facts
        self._out = out

    def add(self, part: str, value: dict[str, Any]) -> None:
        """A whole part."""
        self.found[part] = value
        self._save(part, value)

    def extend(self, part: str, values: Iterable[dict[str, Any]]) -> None:
        """A part that is a list, measurement by measurement."""
        self.found[part] = []
        for value in values:
            self.found[part].append(value)
            self._save(part, value)

    def _save(self, part: str, value: dict[str, Any]) -> None:
        print(f"{part}: {json.dumps(value)}", file=sys.stderr, flush=True)
        results = [*self.found.get("equalities", {}).values(), *self.found.get("deepspeed", {}).values()]
        self.found["failed"] = sum(isinstance(r, dict) and r.get("passed") is False for r in results)
        if self._out is not None:
            self._out.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run all parts; returns 1 if an equality fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda", help="cpu: with --tiny, to try the script")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing that takes longer")
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), help="of the training part")
    parser.add_argument("--global-batches", nargs="+", type=int, default=[8192, 32768, 131072])
    parser.add_argument("--steps", type=int, default=2, help="timed steps per setting")
    chosen = parser.parse_args(arguments)
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --tiny tries the script")
    clock, device = Clock(chosen.seconds), Device(chosen.device)
    parts = chosen.only or PARTS
    report = Report(chosen.out, {"device": device.facts(), "tiny": chosen.tiny})
    if "equalities" in parts:
        report.add("equalities", {**check_equalities(device, SMALL), **check_kernels(device)})
    if "deepspeed" in parts:
        report.add("deepspeed", check_deepspeed(device))
    if "loss" in parts:
        batches = [64, 256] if chosen.tiny else [4096, 16384, 65536, 131072]
        report.extend("loss", measure_losses(device, batches, 16 if chosen.tiny else 768, clock))
    if "training" in parts:
        plan = {
            "precision": "fp32" if chosen.tiny else "bf16_autocast",
            "lengths": (6, 12) if chosen.tiny else (32, 128),
            "chunk_rows": 16 if chosen.tiny else 4096,
            "chunk_tokens": 128 if chosen.tiny else 65536,
            "steps": 1 if chosen.tiny else chosen.steps,
        }
        sizes = TINY if chosen.tiny else {name: SIZES[name] for name in chosen.models or SIZES}
        batches = [64] if chosen.tiny else chosen.global_batches
        report.extend("training", measure_training(device, sizes, batches, plan, clock))
    print(json.dumps(report.found, indent=2))
    return 1 if report.found.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
