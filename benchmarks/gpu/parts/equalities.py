"""Compare gradients of steps, dropout that repeats, and kernels of the loss, each with its reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import Context, Device
from benchmarks.gpu.model import Precision, batch_of, engine_of
from benchmarks.gpu.report import Figures, compared
from benchmarks.gpu.sizes import SMALL, TINY, Size
from hbt_dist.contrastive.chunks import RandomState
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import contrast
from hbt_dist.contrastive.row_losses import why_not
from hbt_dist.contrastive.settings import Kernel, LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.training.deepspeed.engine import Engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed

KERNELS: tuple[Kernel, ...] = ("rows", "liger")
LIMITS: dict[Precision, float] = {"fp32": 1e-4, "bf16_autocast": 5e-2}
LENGTHS = (12, 24)


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield every comparison; all are predicted to hold."""
    size = TINY if context.tiny else SMALL
    yield from check_kernels(context.device)
    for precision in LIMITS:
        yield from check_steps(context.device, size, precision)
        for cudnn in (False, True):
            with cudnn_attention(cudnn):
                yield from check_dropout(context.device, size, precision, cudnn=cudnn)


@contextmanager
def cudnn_attention(allowed: bool) -> Iterator[None]:
    """Allow or forbid cuDNN's attention; engines forbid it, see `hbt_dist.common.devices`."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(allowed)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def gradients_of(engine: Engine, batch: Any, loss: LossSettings, step: StepSettings) -> tuple[float, Tensor]:
    """Loss and flat gradient of one step."""
    torch.manual_seed(1)
    result = contrastive_step(engine, batch, loss, step, engine.world)
    return result.loss, flat_gradient(engine)


def flat_gradient(engine: Engine) -> Tensor:
    """Return the gradient of all parameters on the host, and clear it."""
    gradient = torch.cat([p.grad.flatten().double() for p in engine.model.parameters() if p.grad is not None])
    engine.optimizer.zero_grad(set_to_none=True)
    return gradient.cpu()


def plain_gradients(engine: Engine, batch: Any, loss: LossSettings) -> tuple[float, Tensor]:
    """The same with the whole matrix, `cross_entropy` and autograd; no dropout."""
    embeddings = []
    for tokens in (batch.questions, batch.passages):
        ids, mask = (part.to(engine.world.device) for part in tokens.pad(np.arange(len(tokens.lengths))))
        vectors = engine.encode(ids, mask, tokens.lengths.tolist())[0]
        embeddings.append(F.normalize(vectors.float(), dim=-1))
    scores = embeddings[0] @ embeddings[1].T / loss.temperature
    rows = torch.arange(len(scores), device=engine.world.device)
    value = F.cross_entropy(scores, rows)
    if loss.directions == "both":
        value = (value + F.cross_entropy(scores[:, : len(rows)].T, rows)) / 2
    value.backward()
    return value.item(), flat_gradient(engine)


def relative(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|."""
    return float((got - want).norm() / want.norm())


def check_steps(device: Device, size: Size, precision: Precision) -> Iterator[tuple[str, Figures]]:
    """Gradients of whole steps of padded rows against plain autograd."""
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
    batch = batch_of(48, size["vocab_size"], LENGTHS, num_negatives=1)
    for directions in ("question_to_passage", "both"):
        loss = LossSettings(directions=directions, row_chunk=20, temperature=0.1)
        engine = engine_of(device.torch, size, 0.0, ResolvedDeepSpeed(precision=precision))
        want_loss, want = plain_gradients(engine, batch, loss)
        for name, (kernel, step) in ways.items():
            with_kernel = loss.model_copy(update={"kernel": kernel})
            got_loss, got = gradients_of(engine, batch, with_kernel, step)
            error = float(torch.tensor([relative(got, want), abs(got_loss / want_loss - 1)]).max())
            yield f"{precision}, {directions}, {name} = plain", compared(error, LIMITS[precision])


def check_dropout(
    device: Device, size: Size, precision: Precision, *, cudnn: bool
) -> Iterator[tuple[str, Figures]]:
    """The second forward of a chunk, with a graph, draws what the first drew without one."""
    label = f"{precision}, {'cuDNN, ' if cudnn else ''}dropout replayed"
    engine = engine_of(device.torch, size, 0.1, ResolvedDeepSpeed(precision=precision))
    loss = LossSettings(directions="both", row_chunk=20, temperature=0.1)
    for fixed in (True, False):
        rows = "rows of equal length" if fixed else "padded rows"
        batch = batch_of(48, size["vocab_size"], LENGTHS, fixed=fixed)
        _, direct = gradients_of(engine, batch, loss, StepSettings(mode="direct", chunk_rows=48))
        _, cached = gradients_of(engine, batch, loss, StepSettings(mode="cached", chunk_rows=48))
        ids, mask = (part.to(device.torch) for part in batch.passages.pad(np.arange(48)))
        lengths = batch.passages.lengths.tolist()
        state = RandomState(device.torch)
        with torch.no_grad():
            first = engine.encode(ids, mask, lengths)[0]
        with state.replay():
            second = engine.encode(ids, mask, lengths)[0].detach()
        error = relative(second.double(), first.double())
        yield f"{label}, {rows}: second forward = first", compared(error, LIMITS[precision])
        yield f"{label}, {rows}: cached = direct", compared(relative(cached, direct), LIMITS[precision])


def check_kernels(device: Device) -> Iterator[tuple[str, Figures]]:
    """Loss and gradients of every kernel, in float32, against float64."""
    generator = torch.Generator().manual_seed(0)
    q, p = (F.normalize(torch.randn(512, 64, generator=generator), dim=-1).to(device.torch) for _ in range(2))
    layout = Layout(0, 1, 512, 0)
    exact = contrast(q.double(), p.double(), layout, LossSettings(row_chunk=100), scale=20.0)
    for kernel in KERNELS:
        name = f"loss kernel {kernel} = float64"
        if (reason := why_not(kernel, device.torch)) is not None:
            yield name, {"skipped": f"{kernel} {reason}"}
            continue
        result = contrast(q, p, layout, LossSettings(row_chunk=100, kernel=kernel), scale=20.0)
        errors = [
            relative(result.questions_bD.double(), exact.questions_bD),
            relative(result.passages_ND.double(), exact.passages_ND),
            abs(float(result.loss / exact.loss) - 1),
        ]
        yield name, compared(float(torch.tensor(errors).max()), 1e-5)
