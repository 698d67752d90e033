"""Compare the distributed, chunked gradient with that of one plain process, in seconds, before training.

A tiny encoder with dropout is trained for no step: its gradient through the run's own engine settings (ZeRO
stage, precision, offload, way of reduction), over the real ranks, in several chunks, with hard negatives and
in both directions, is compared with plain autograd on the whole B x N matrix. A wrong scale, a lost chunk or
dropout that does not repeat cannot pass. The tiny loss has two widths if `loss.widths` is set. Every rank
computes the reference alone: it draws the dropout of every rank from that rank's seed. Further denominators,
weights and regularisers are left out: they add no way for gradients to travel. The step runs with the
run's `loss.kernel`; what the tolerance of a reduced precision would hide of it,
`hbt_dist.contrastive.row_losses.check_kernel` finds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbt_dist.batching.tokens import TokenRows
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.chunks import Limits, plan_chunks_of_ranks
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import DeepSpeedEngine, Engine, Reduction, build_engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings

_ROWS_PER_RANK, _NEGATIVES, _VOCABULARY, _WIDTH, _SEED = 6, 1, 50, 8, 100
_WIDTHS = [_WIDTH, 3]
_LOSS = LossSettings(temperature=0.2, directions="both", row_chunk=4, mask_false_negatives=False)
_STEP = StepSettings(mode="cached", chunk_rows=4)


@dataclass(frozen=True)
class SelfCheck:
    """Errors of the gradient and the loss; the same on every rank."""

    gradient_error: float  # largest over parameters, relative to the parameter's gradient
    loss_error: float  # relative
    tolerance: float
    engine: str

    @property
    def passed(self) -> bool:
        """Whether both errors are within the tolerance; NaN is not."""
        return self.gradient_error <= self.tolerance and self.loss_error <= self.tolerance


def self_check(
    world: World,
    deepspeed: ResolvedDeepSpeed | None = None,
    grad_reduction: Reduction = "auto",
    loss: LossSettings | None = None,
) -> SelfCheck:
    """Compare the gradients. Collective: every rank calls it.

    Under fp16 the loss scale of the first steps overflows by design, so there the check runs in float32.
    Random states are left as they were.
    """
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        return _check(world, deepspeed or ResolvedDeepSpeed(), grad_reduction, loss or _LOSS)


def _check(
    world: World, deepspeed: ResolvedDeepSpeed, grad_reduction: Reduction, of_run: LossSettings
) -> SelfCheck:
    tiny = _for_tiny_model(deepspeed)
    tolerance = 0.2 if tiny.low_precision else 1e-4
    encoder = _TinyEncoder()
    reference = copy.deepcopy(encoder).to(world.device)
    engine = build_engine(
        encoder.to(world.device),
        optimizer=OptimizerSettings(gradient_clipping=1.0),
        total_steps=1,
        world=world,
        deepspeed=tiny,
        grad_reduction=grad_reduction,
    )
    engine.train()
    slices = [_slice(rank, world.size) for rank in range(world.size)]
    torch.manual_seed(_SEED + world.rank)
    widths = _WIDTHS if of_run.widths else None
    loss = _LOSS.model_copy(update={"kernel": of_run.kernel, "widths": widths})
    result = contrastive_step(engine, slices[world.rank], loss, _STEP, world)
    want_loss = _reference_backward(reference.train(), slices, world.device, widths or [_WIDTH])
    got, want = _gradients(engine), {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
    error = max(_relative(got[f"encoder.{name}"], gradient) for name, gradient in want.items())
    loss_error = abs(result.loss - want_loss) / want_loss
    # One answer for all ranks: if one rank refused alone, the others would wait for it.
    errors = torch.tensor([error, loss_error], dtype=torch.float64, device=world.device).nan_to_num(nan=1e30)
    error, loss_error = world.all_reduce(errors, op=torch.distributed.ReduceOp.MAX).tolist()
    name = type(engine).__name__
    if isinstance(engine, DeepSpeedEngine):
        name = f"DeepSpeed, ZeRO stage {engine.zero_stage}, {engine.reduction}"
    return SelfCheck(error, loss_error, tolerance, f"{name}, {world.size} processes on {world.device.type}")


def require_self_check(
    world: World,
    deepspeed: ResolvedDeepSpeed | None = None,
    grad_reduction: Reduction = "auto",
    loss: LossSettings | None = None,
) -> SelfCheck:
    """Run `self_check`, and refuse to start if it fails.

    Raises:
        UserError: on every rank, with the errors.
    """
    check = self_check(world, deepspeed, grad_reduction, loss)
    if not check.passed:
        raise UserError(
            "self-check",
            f"the distributed gradient is not that of one process: error {check.gradient_error:.2e}, "
            f"of the loss {check.loss_error:.2e} (at most {check.tolerance:.0e}); {check.engine}",
            "training would silently go wrong. Try step.grad_reduction: boundary, another ZeRO stage,\n"
            "or the tested versions in constraints.txt; step.self_check: false starts regardless",
        )
    return check


def _for_tiny_model(deepspeed: ResolvedDeepSpeed) -> ResolvedDeepSpeed:
    """Return the start's configuration in float32 instead of fp16, with buffers for a tiny model."""
    config = copy.deepcopy(deepspeed.config)
    if config is not None:
        config["gradient_clipping"] = 1.0
        config.pop("fp16", None)
        zero = config["zero_optimization"]
        zero.update({key: 100_000 for key in zero if key.endswith("bucket_size")})
    return ResolvedDeepSpeed(config, deepspeed.precision)


class _TinyEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.tokens = nn.Embedding(_VOCABULARY, 16)
        self.hidden = nn.Linear(16, 32)
        self.norm = nn.LayerNorm(32)
        self.out = nn.Linear(32, _WIDTH)
        with torch.no_grad():
            for parameter in self.parameters():
                # Wide enough that the rounding of bf16 does not hide an error.
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask.unsqueeze(-1)
        hidden = torch.tanh(self.hidden(self.tokens(input_ids)))
        if self.training:
            hidden = _dropout(hidden)
        pooled = (self.norm(hidden) * mask).sum(1) / mask.sum(1)
        return self.out(pooled)


def _dropout(x: Tensor) -> Tensor:
    """Apply dropout of 0.2 with a mask of the seed alone: on CUDA F.dropout also depends on the dtype."""
    keep = torch.rand(x.shape, dtype=torch.float32, device=x.device) >= 0.2
    return x * keep / 0.8


def _slice(rank: int, world_size: int) -> Any:  # a LocalRows
    """Return the rank's rows of a fixed global batch."""
    generator = np.random.default_rng((11, rank))

    def texts(count: int) -> TokenRows:
        rows = [generator.integers(0, _VOCABULARY, generator.integers(1, 9)) for _ in range(count)]
        return TokenRows(np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)]))

    num_rows = _ROWS_PER_RANK * world_size
    every = np.arange(num_rows)
    batch = SimpleNamespace(
        step=0, kind="self-check", example=every, question_language=every, passage_language=every
    )
    columns = np.arange(num_rows * (1 + _NEGATIVES))
    return SimpleNamespace(
        batch=batch,
        questions=texts(_ROWS_PER_RANK),
        passages=texts(_ROWS_PER_RANK * (1 + _NEGATIVES)),
        passage_group_N=columns,
        sub_batch_B=np.zeros_like(every),
        sub_batch_N=np.zeros_like(columns),
        aligned_questions=None,
        frozen={},
        targets={},
        teacher_scores_bM=None,
    )


def _reference_backward(
    encoder: nn.Module, slices: list[Any], device: torch.device, widths: list[int]
) -> float:
    """Run plain autograd over all rows of all ranks; return the loss."""
    num_rows = _ROWS_PER_RANK * len(slices)
    questions = torch.zeros(num_rows, _WIDTH, device=device)
    passages = torch.zeros(num_rows * (1 + _NEGATIVES), _WIDTH, device=device)
    embeddings = {"question": questions, "passage": passages}
    texts_of_ranks = [{"question": rows.questions, "passage": rows.passages} for rows in slices]
    plans = plan_chunks_of_ranks(texts_of_ranks, Limits.of(_STEP, device, packs=False))
    for rank, (texts, chunks) in enumerate(zip(texts_of_ranks, plans, strict=True)):
        torch.manual_seed(_SEED + rank)
        for chunk in chunks:
            ids, mask = texts[chunk.role].pad(chunk.rows)
            output = encoder(ids.to(device), mask.to(device)).float()
            first = rank * len(texts[chunk.role].lengths)
            embeddings[chunk.role][first + chunk.rows] = F.normalize(output, dim=-1)
    row = torch.arange(num_rows, device=device)
    target = row + row // _ROWS_PER_RANK * _ROWS_PER_RANK * _NEGATIVES
    loss = torch.zeros((), device=device)
    for width in widths:
        cut = [F.normalize(embedding[:, :width], dim=-1) for embedding in (questions, passages)]
        scores = cut[0] @ cut[1].T / _LOSS.temperature
        loss += (F.cross_entropy(scores, target) + F.cross_entropy(scores[:, target].T, row)) / 2
    loss = loss / len(widths)
    loss.backward()
    return loss.item()


def _gradients(engine: Engine) -> dict[str, Tensor]:
    named = dict(engine.model.named_parameters())
    if not isinstance(engine, DeepSpeedEngine):
        return {name: p.grad for name, p in named.items() if p.grad is not None}
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p) for name, p in named.items()}


def _relative(got: Tensor, want: Tensor) -> float:
    return float((got.float().to(want.device) - want).norm() / want.norm().clamp(min=1e-12))
