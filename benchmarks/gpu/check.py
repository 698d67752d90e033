"""Check the contrastive step on one GPU and measure it; writes JSON.

    python benchmarks/gpu/check.py --out gpu.json
    python benchmarks/gpu/check.py --device cpu --tiny    # the same code, tiny sizes: 16 processor seconds

Three parts, each skipped with a reason where something is missing:

* equalities, in float32 and bf16 autocast: cached = direct = plain autograd over the whole B x N matrix; the
  row loop = torch's chunked `linear_cross_entropy`; with DeepSpeed every ZeRO stage passes the self-check.
* loss memory: peak extra memory of the loss alone, B from 4,096 to 131,072.
* training: tokens per second, model FLOP utilisation and peak memory of whole cached steps (AdamW included,
  questions of 32 and passages of 128 tokens) for encoders of XLM-R-base and XLM-R-large size with random
  weights, at global batches of 8k, 32k and 128k pairs on this GPU.

Needs torch and transformers. Neither DeepSpeed, Ray nor faiss is imported unless it is there.

Model FLOPs count 6 per matrix parameter and token plus 12 * layers * hidden * length for attention, without
the embedding table; the second forward of the cached step is work, not model FLOPs, and lowers the figure.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import platform
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.contrastive import loss as loss_module
from hbt_dist.contrastive.config import LossSettings, StepSettings
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import contrast
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.engine import PlainEngine, TrainedModel
from hbt_dist.training.optimizer import OptimizerSettings

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


class MeanEncoder(nn.Module):
    """XLM-R architecture with random weights and mean pooling."""

    def __init__(self, dropout: float = 0.1, **size: int) -> None:
        super().__init__()
        from transformers import XLMRobertaConfig, XLMRobertaModel

        config = XLMRobertaConfig(
            **size,
            intermediate_size=4 * size["hidden_size"],
            max_position_embeddings=514,
            type_vocab_size=1,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.backbone = XLMRobertaModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, T) -> (n, D)."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


class Tokens:
    """Random texts; lengths vary by a quarter around their mean unless `fixed`."""

    def __init__(self, count: int, length: int, vocabulary: int, seed: int, *, fixed: bool) -> None:
        generator = np.random.default_rng(seed)
        low, high = (length, length) if fixed else (max(2, length * 3 // 4), length)
        self.lengths = generator.integers(low, high + 1, count)
        self._ids = generator.integers(4, vocabulary, (count, length))

    def pad(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and mask of some rows."""
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids = np.where(mask, self._ids[rows][:, : lengths.max()], 1)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def batch_of(
    rows: int, vocabulary: int, lengths: tuple[int, int], *, num_negatives: int = 0, fixed: bool = False
) -> Any:
    """One process's whole global batch."""
    every, columns = np.arange(rows), np.arange(rows * (1 + num_negatives))
    return SimpleNamespace(
        batch=SimpleNamespace(
            step=0, kind="random", example=every, question_language=every, passage_language=every
        ),
        rank=0,
        world_size=1,
        questions=Tokens(rows, lengths[0], vocabulary, 1, fixed=fixed),
        passages=Tokens(len(columns), lengths[1], vocabulary, 2, fixed=fixed),
        passage_group_N=columns,
        sub_batch_B=np.zeros_like(every),
        sub_batch_N=np.zeros_like(columns),
    )


class Device:
    """Memory and time on a GPU, or on the CPU where memory is not measured."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.cuda = name.startswith("cuda")

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self) -> int:
        """Forget the peak; returns the bytes in use."""
        gc.collect()
        if not self.cuda:
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        """Highest bytes in use since `reset`."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def facts(self) -> dict[str, Any]:
        """What was measured on."""
        facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.torch)
            facts |= {"device": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
        return facts | {"device_type": self.torch.type}


def engine_of(device: Device, precision: str, size: dict[str, int], dropout: float) -> PlainEngine:
    """A plain engine around a fresh encoder with the same weights every time."""
    torch.manual_seed(0)
    model = TrainedModel(MeanEncoder(dropout, **size)).train()
    world = World.alone(device.torch)
    settings = OptimizerSettings()
    return PlainEngine(model, optimizer=settings, total_steps=100, world=world, precision=precision)  # type: ignore[arg-type]


def gradients_of(
    engine: PlainEngine, batch: Any, loss: LossSettings, step: StepSettings
) -> tuple[float, Tensor]:
    """Loss and flat gradient of one step."""
    torch.manual_seed(1)
    result = contrastive_step(engine, batch, loss, step, engine.world)
    gradient = torch.cat([p.grad.flatten().double() for p in engine.model.parameters() if p.grad is not None])
    engine.optimizer.zero_grad(set_to_none=True)
    return result.loss, gradient.cpu()


def plain_gradients(engine: PlainEngine, batch: Any, loss: LossSettings) -> tuple[float, Tensor]:
    """The same with the whole matrix, `cross_entropy` and autograd; no dropout."""
    device = engine.world.device
    found = []
    for tokens in (batch.questions, batch.passages):
        ids, mask = tokens.pad(np.arange(len(tokens.lengths)))
        found.append(F.normalize(engine.encode(ids.to(device), mask.to(device))[0].float(), dim=-1))
    scores = found[0] @ found[1].T / loss.temperature
    rows = torch.arange(len(scores), device=device)
    value = F.cross_entropy(scores, rows)
    if loss.directions == "both":
        value = (value + F.cross_entropy(scores[:, : len(rows)].T, rows)) / 2
    value.backward()
    gradient = torch.cat([p.grad.flatten().double() for p in engine.model.parameters() if p.grad is not None])
    engine.optimizer.zero_grad(set_to_none=True)
    return value.item(), gradient.cpu()


def relative(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|."""
    return float((got - want).norm() / want.norm())


def check_equalities(device: Device, size: dict[str, int]) -> dict[str, Any]:
    """Errors against a reference, each with its limit."""
    checks: dict[str, Any] = {}

    def add(name: str, error: float, limit: float) -> None:
        checks[name] = {"error": error, "limit": limit, "passed": bool(error <= limit)}

    for precision, limit in (("fp32", 1e-4), ("bf16_autocast", 5e-2)):
        batch = batch_of(48, size["vocab_size"], (12, 24), num_negatives=1)
        for directions in ("question_to_passage", "both"):
            loss = LossSettings(directions=directions, row_chunk=20, temperature=0.1)
            engine = engine_of(device, precision, size, dropout=0.0)
            want_loss, want = plain_gradients(engine, batch, loss)
            for name, step in (
                ("direct", StepSettings(mode="direct")),
                ("cached", StepSettings(mode="cached", chunk_rows=7)),
                ("cached by tokens", StepSettings(mode="cached", chunk_rows=32, chunk_tokens=200)),
            ):
                got_loss, got = gradients_of(engine, batch, loss, step)
                key = f"{precision}, {directions}, {name} = plain"
                add(key, max(relative(got, want), abs(got_loss / want_loss - 1)), limit)
        engine = engine_of(device, precision, size, dropout=0.1)
        step = StepSettings(mode="cached", chunk_rows=48)
        fixed = batch_of(48, size["vocab_size"], (12, 24), fixed=True)
        _, direct = gradients_of(engine, fixed, loss, StepSettings(mode="direct"))
        _, cached = gradients_of(engine, fixed, loss, step)
        add(f"{precision}, dropout replayed: cached = direct", relative(cached, direct), limit)
    return checks


def check_kernels(device: Device) -> dict[str, Any]:
    """The row loop against torch's chunked kernel and against float64."""
    generator = torch.Generator().manual_seed(0)
    q, p = (F.normalize(torch.randn(512, 64, generator=generator), dim=-1).to(device.torch) for _ in range(2))
    layout = Layout(0, 1, 512, 0)
    settings = LossSettings(row_chunk=100)
    exact = contrast(q.double(), p.double(), layout, settings, scale=20.0)
    checks = {}
    for kernel in ("rows", "torch"):
        if kernel == "torch" and loss_module._TORCH_OPTIONS is None:
            checks["loss kernel torch = float64"] = {
                "skipped": "this torch has no chunked linear_cross_entropy"
            }
            continue
        settings = LossSettings(row_chunk=100, kernel=kernel)  # type: ignore[arg-type]
        found = contrast(q, p, layout, settings, scale=20.0)
        error = max(
            relative(found.questions_bD.double(), exact.questions_bD),
            relative(found.passages_ND.double(), exact.passages_ND),
            abs(float(found.loss / exact.loss) - 1),
        )
        checks[f"loss kernel {kernel} = float64"] = {"error": error, "limit": 1e-4, "passed": error <= 1e-4}
    return checks


def check_deepspeed(device: Device) -> dict[str, Any]:
    """The self-check with every ZeRO stage and every shipped configuration."""
    try:
        importlib.import_module("deepspeed")
    except ImportError:
        return {"skipped": "DeepSpeed is not installed"}
    from hbt_dist.training.deepspeed_config import DeepSpeedSettings, shipped_configs
    from hbt_dist.training.selfcheck import self_check

    found: dict[str, Any] = {}
    for config in shipped_configs():
        try:
            check = self_check(World.alone(device.torch), DeepSpeedSettings(config=config))
            found[config] = {
                "error": check.gradient_error,
                "limit": check.tolerance,
                "passed": check.passed,
                "engine": check.engine,
            }
        except Exception as error:
            found[config] = {"passed": False, "error_message": f"{type(error).__name__}: {error}"[:300]}
    return found


def measure_loss_memory(device: Device, batches: list[int], width: int) -> list[dict[str, Any]]:
    """Seconds and extra memory of loss and gradients on given embeddings."""
    found = []
    for rows in batches:
        generator = torch.Generator(device.torch).manual_seed(0)
        q, p = (
            F.normalize(torch.randn(rows, width, device=device.torch, generator=generator), dim=-1)
            for _ in range(2)
        )
        for row_chunk in (256, 1024):
            settings = LossSettings(row_chunk=row_chunk)
            before = device.reset()
            device.sync()
            start = time.perf_counter()
            part = contrast(q, p, Layout(0, 1, rows, 0), settings, scale=20.0)
            device.sync()
            peak = device.peak()
            gradients = 2 * rows * width * 4
            found.append(
                {
                    "rows": rows,
                    "row_chunk": row_chunk,
                    "seconds": round(time.perf_counter() - start, 4),
                    "extra_mb": None if peak is None else round((peak - before - gradients) / 1e6, 1),
                    "plain_matrix_mb": round(rows * rows * 4 / 1e6, 1),
                    "loss": float(part.loss),
                }
            )
            del part
    return found


def measure_training(
    device: Device, name: str, size: dict[str, int], rows: int, plan: dict[str, Any]
) -> dict[str, Any]:
    """Whole steps: cached step and AdamW."""
    result: dict[str, Any] = {"model": name, "global_batch_size": rows, **plan}
    before = device.reset()
    try:
        engine = engine_of(device, plan["precision"], size, dropout=0.1)
        batch = batch_of(rows, size["vocab_size"], plan["lengths"], fixed=True)
        step = StepSettings(mode="cached", chunk_rows=plan["chunk_rows"], chunk_tokens=plan["chunk_tokens"])
        seconds = []
        for index in range(plan["steps"] + 1):
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
        result |= {
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
        del engine
    except RuntimeError as error:
        if "out of memory" not in str(error):
            raise
        result["skipped"] = "out of memory"
    device.reset()
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run all parts; returns 1 if an equality fails."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    parser.add_argument("--only", choices=["equalities", "memory", "training"], action="append")
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), help="of the training part")
    parser.add_argument("--global-batches", nargs="+", type=int, default=[8192, 32768, 131072])
    parser.add_argument("--steps", type=int, default=2, help="timed steps per setting, after one more")
    chosen = parser.parse_args(arguments)
    if chosen.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --tiny tries the script")
    device = Device(chosen.device)
    parts = chosen.only or ["equalities", "memory", "training"]
    sizes = TINY if chosen.tiny else {name: SIZES[name] for name in chosen.models or SIZES}
    report: dict[str, Any] = {"device": device.facts(), "tiny": chosen.tiny}
    if "equalities" in parts:
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300}
        report["equalities"] = {**check_equalities(device, small), **check_kernels(device)}
        report["deepspeed"] = check_deepspeed(device)
    if "memory" in parts:
        batches = [64, 256] if chosen.tiny else [4096, 16384, 65536, 131072]
        report["loss_memory"] = measure_loss_memory(device, batches, 16 if chosen.tiny else 768)
    if "training" in parts:
        plan = {
            "precision": "fp32" if chosen.tiny else "bf16_autocast",
            "lengths": (6, 12) if chosen.tiny else (32, 128),
            "chunk_rows": 16 if chosen.tiny else 4096,
            "chunk_tokens": 128 if chosen.tiny else 65536,
            "steps": 1 if chosen.tiny else chosen.steps,
        }
        batches = [64] if chosen.tiny else chosen.global_batches
        report["training"] = [
            measure_training(device, n, s, rows, plan) for n, s in sizes.items() for rows in batches
        ]
    results = [*report.get("equalities", {}).values(), *report.get("deepspeed", {}).values()]
    report["failed"] = sum(isinstance(r, dict) and r.get("passed") is False for r in results)
    text = json.dumps(report, indent=2)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")
    return 1 if report["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
