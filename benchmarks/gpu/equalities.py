"""What must be equal on a GPU: gradients of whole steps, dropout that repeats, kernels, ZeRO stages."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.model import Device, Precision, Size, batch_of, engine_of
from hbt_dist.contrastive.chunks import RandomState
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import contrast
from hbt_dist.contrastive.row_losses import why_not
from hbt_dist.contrastive.settings import Kernel, LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import PlainEngine

KERNELS: tuple[Kernel, ...] = ("rows", "liger")


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
        found.append(
            F.normalize(
                engine.encode(ids.to(device), mask.to(device), mask.sum(1).tolist())[0].float(), dim=-1
            )
        )
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


def compared(error: float, limit: float) -> dict[str, Any]:
    """An error, its limit, and whether it holds; NaN does not."""
    return {"error": error, "limit": limit, "passed": bool(error <= limit)}


def check_equalities(device: Device, size: Size) -> dict[str, Any]:
    """Gradients of whole steps against a reference."""
    checks: dict[str, Any] = {}
    kernels = [kernel for kernel in KERNELS[1:] if why_not(kernel, device.torch) is None]
    ways: dict[str, tuple[Kernel, StepSettings]] = {
        "direct": ("rows", StepSettings(mode="direct")),
        "cached": ("rows", StepSettings(mode="cached", chunk_rows=7)),
        "cached by tokens": ("rows", StepSettings(mode="cached", chunk_rows=32, chunk_tokens=200)),
        **{
            f"cached, kernel {kernel}": (kernel, StepSettings(mode="cached", chunk_rows=7))
            for kernel in kernels
        },
    }
    limits: dict[Precision, float] = {"fp32": 1e-4, "bf16_autocast": 5e-2}
    for precision, limit in limits.items():
        batch = batch_of(48, size["vocab_size"], (12, 24), num_negatives=1)
        for directions in ("question_to_passage", "both"):
            loss = LossSettings(directions=directions, row_chunk=20, temperature=0.1)
            engine = engine_of(device, precision, size, dropout=0.0)
            want_loss, want = plain_gradients(engine, batch, loss)
            for name, (kernel, step) in ways.items():
                with_kernel = loss.model_copy(update={"kernel": kernel})
                got_loss, got = gradients_of(engine, batch, with_kernel, step)
                error = float(torch.tensor([relative(got, want), abs(got_loss / want_loss - 1)]).max())
                checks[f"{precision}, {directions}, {name} = plain"] = compared(error, limit)
        checks |= check_dropout(device, precision, size, limit)
    return checks


def check_dropout(device: Device, precision: Precision, size: Size, limit: float) -> dict[str, Any]:
    """The second forward of a chunk, with a graph, draws what the first drew without one."""
    engine = engine_of(device, precision, size, dropout=0.1)
    fixed = batch_of(48, size["vocab_size"], (12, 24), fixed=True)
    loss = LossSettings(directions="both", row_chunk=20, temperature=0.1)
    _, direct = gradients_of(engine, fixed, loss, StepSettings(mode="direct"))
    _, cached = gradients_of(engine, fixed, loss, StepSettings(mode="cached", chunk_rows=48))
    texts = batch_of(48, size["vocab_size"], (12, 24)).passages
    ids, mask = (part.to(device.torch) for part in texts.pad(np.arange(48)))
    state = RandomState(device.torch)
    with torch.no_grad():
        first = engine.encode(ids, mask)[0]
    with state.replay():
        second = engine.encode(ids, mask)[0].detach()
    return {
        f"{precision}, dropout replayed: cached = direct": compared(relative(cached, direct), limit),
        f"{precision}, dropout replayed: second forward = first": compared(
            relative(second.double(), first.double()), limit
        ),
    }


def check_kernels(device: Device) -> dict[str, Any]:
    """Loss and gradients of every kernel, in float32, against float64."""
    generator = torch.Generator().manual_seed(0)
    q, p = (F.normalize(torch.randn(512, 64, generator=generator), dim=-1).to(device.torch) for _ in range(2))
    layout = Layout(0, 1, 512, 0)
    exact = contrast(q.double(), p.double(), layout, LossSettings(row_chunk=100), scale=20.0)
    checks: dict[str, Any] = {}
    for kernel in KERNELS:
        name = f"loss kernel {kernel} = float64"
        if (reason := why_not(kernel, device.torch)) is not None:
            checks[name] = {"skipped": f"{kernel} {reason}"}
            continue
        found = contrast(q, p, layout, LossSettings(row_chunk=100, kernel=kernel), scale=20.0)
        errors = [
            relative(found.questions_bD.double(), exact.questions_bD),
            relative(found.passages_ND.double(), exact.passages_ND),
            abs(float(found.loss / exact.loss) - 1),
        ]
        checks[name] = compared(float(torch.tensor(errors).max()), 1e-5)
    return checks


def check_deepspeed(device: Device) -> dict[str, Any]:
    """The self-check with every ZeRO stage and every shipped configuration."""
    if importlib.util.find_spec("deepspeed") is None:
        return {"skipped": "DeepSpeed is not installed"}
    from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed, shipped_configs
    from hbt_dist.training.self_check import self_check

    found: dict[str, Any] = {}
    for config in shipped_configs():
        try:
            check = self_check(
                World.alone(device.torch),
                resolve_deepspeed(DeepSpeedSettings(config=config), gradient_clipping=1.0),
            )
            found[config] = {
                "error": check.gradient_error,
                "limit": check.tolerance,
                "passed": check.passed,
                "engine": check.engine,
            }
        except Exception as error:
            found[config] = {"passed": False, "error_message": f"{type(error).__name__}: {error}"[:300]}
    return found
