"""Train a model with DeepSpeed (ZeRO 0 to 3, offload) or plain PyTorch, behind one small interface.

    engine = build_engine(encoder, optimizer=..., total_steps=..., world=world, deepspeed=resolved)
    result = contrastive_step(engine, local_batch, loss, step, world)
    norm = engine.step(step_index)

Several backward passes per optimizer step go silently wrong under ZeRO: with plain `engine.backward`
per chunk, ZeRO-1 and ZeRO-2 keep the gradient of a part of the chunks only. `DeepSpeedEngine.accumulate`
takes one of two ways that are exact:

* coalesce: chunks add up in the parameters' own `.grad`, one reduction at the end. Full gradients are held
  by every rank meanwhile: 4 bytes per parameter in float32.
* boundary: every chunk but the last is marked as no boundary. ZeRO-2 and 3 then reduce after every chunk:
  less memory, as many reductions as chunks. ZeRO-0 and 1 reduce once.

Both average over ranks. tests/training/test_engine.py compares them with one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.world import World
from hbt_dist.models.encoder import Encoder
from hbt_dist.training.averaging import average_gradients
from hbt_dist.training.deepspeed.partition import partition
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.deepspeed.setup import groups_time_out_like_the_first, prepare_deepspeed
from hbt_dist.training.memory import free_bytes
from hbt_dist.training.optimizer import build_optimizer, learning_rate
from hbt_dist.training.parts import divide, freeze
from hbt_dist.training.settings import OptimizerSettings
from hbt_dist.training.trained_model import TrainedModel

Reduction = Literal["auto", "coalesce", "boundary"]


class Engine:
    """What the trainer and the contrastive step need of a model in training."""

    def __init__(
        self,
        model: TrainedModel,
        resolved: ResolvedDeepSpeed,
        *,
        optimizer: OptimizerSettings,
        total_steps: int,
        world: World,
    ) -> None:
        self.model, self.world, self.resolved = model, world, resolved
        self.zero_stage = resolved.zero_stage
        self.scales_loss = resolved.scales_loss  # fp16: an overflow skips a step and is not an error
        self.optimizer = build_optimizer(model, optimizer)  # while parameters have their shapes
        self._highest: list[float] = [group["lr"] for group in self.optimizer.param_groups]
        self._settings, self._total_steps = optimizer, total_steps

    @property
    def packs(self) -> bool:
        """Whether the encoder computes nothing for padding."""
        encoder = self.model.encoder
        if not isinstance(encoder, Encoder):
            return False
        return encoder.packs(self.world.device, torch.bfloat16 if self.resolved.computes_in_bf16 else None)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return embeddings (n, D), and log(1 / temperature) (1,) if it is learned."""
        raise NotImplementedError

    def accumulate(self, surrogates: Sequence[Callable[[], Tensor]]) -> None:
        """Call each, backpropagate what it returns, and average the summed gradient over ranks.

        Every rank must pass the same number.
        """
        raise NotImplementedError

    def step(self, index: int) -> float:
        """Clip, move the parameters with the learning rate of step `index`, clear the gradient.

        Returns:
            the norm of the gradient before clipping, the same on every rank; not finite if the gradient was
            not, and then the parameters must not be used.
        """
        raise NotImplementedError

    def learning_rate(self, index: int) -> float:
        """Return the learning rate of step `index`."""
        return learning_rate(index, self._total_steps, self._settings)

    @property
    def replay_tolerance(self) -> float:
        """Largest difference of two forwards of the same rows: different kernels may run without a graph."""
        return 0.05 if self.resolved.low_precision else 1e-3

    def train(self) -> None:
        """Switch dropout on."""
        self.model.train()

    def _set_learning_rate(self, optimizer: Any, index: int) -> None:
        """Set it by the groups' order: a loaded checkpoint replaces the groups' other entries."""
        for group, highest in zip(optimizer.param_groups, self._highest, strict=True):
            group["lr"] = learning_rate(index, self._total_steps, self._settings, highest)


class PlainEngine(Engine):
    """Train with PyTorch alone: every rank holds everything; gradients are averaged after the last chunk.

    The reference for the DeepSpeed engine, and the engine where DeepSpeed is absent.
    """

    def __init__(
        self,
        model: TrainedModel,
        resolved: ResolvedDeepSpeed,
        *,
        optimizer: OptimizerSettings,
        total_steps: int,
        world: World,
    ) -> None:
        model.to(world.device)
        super().__init__(model, resolved, optimizer=optimizer, total_steps=total_steps, world=world)
        self._clipping = 1.0 if optimizer.gradient_clipping is None else optimizer.gradient_clipping
        self._autocast = resolved.precision == "bf16_autocast"
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if world.size > 1:
            for tensor in [*model.parameters(), *model.buffers()]:
                dist.broadcast(tensor.detach(), group_src=0, group=world.group)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (n, D) embeddings of (n, T) token ids, and the learned log(1 / temperature), if any."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self._autocast):
            return cast("tuple[Tensor, Tensor | None]", self.model(input_ids, attention_mask, lengths))

    def accumulate(self, surrogates: Sequence[Callable[[], Tensor]]) -> None:
        """Backpropagate each, then average the sum over ranks, in place."""
        for surrogate in surrogates:
            surrogate().backward()
        self.model.drop_copies()
        average_gradients(self._parameters, self.world)

    def step(self, index: int) -> float:
        """Clip, set the learning rate of step ``index``, update; return the norm, infinite if skipped."""
        limit = self._clipping if self._clipping > 0 else float("inf")
        norm = float(nn.utils.clip_grad_norm_(self._parameters, limit))
        self._set_learning_rate(self.optimizer, index)
        if norm < float("inf"):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm


class DeepSpeedEngine(Engine):
    """A `deepspeed` engine whose several backward passes per step are exact.

    Attributes:
        deepspeed: DeepSpeed's own engine, for checkpoints.
        reduction: how chunks add up, ``coalesce`` or ``boundary``.
    """

    def __init__(
        self,
        model: TrainedModel,
        resolved: ResolvedDeepSpeed,
        *,
        optimizer: OptimizerSettings,
        total_steps: int,
        world: World,
        reduction: Reduction = "auto",
    ) -> None:
        import deepspeed

        super().__init__(model, resolved, optimizer=optimizer, total_steps=total_steps, world=world)
        with groups_time_out_like_the_first(world.device):
            if self.zero_stage == 3:
                partition(model, resolved, world.device)
            self.deepspeed, *_ = deepspeed.initialize(
                model=model, optimizer=self.optimizer, config=resolved.config, dist_init_required=False
            )
        self.reduction = self._choose(reduction)

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return (n, D) embeddings of (n, T) token ids, and the learned log(1 / temperature), if any."""
        return cast("tuple[Tensor, Tensor | None]", self.deepspeed(input_ids, attention_mask, lengths))

    def accumulate(self, surrogates: Sequence[Callable[[], Tensor]]) -> None:
        """Backpropagate each; reduce once at the end, or after each."""
        coalesce = self.reduction == "coalesce" and len(surrogates) > 1
        mark_boundary = self.deepspeed.set_gradient_accumulation_boundary
        with contextlib.ExitStack() as stack:
            if coalesce:
                stack.enter_context(self.deepspeed.coalesce_grad_reduction())
            else:
                stack.callback(mark_boundary, True)  # also after an error: DeepSpeed keeps its last value
            for number, surrogate in enumerate(surrogates, start=1):
                if not coalesce:
                    mark_boundary(number == len(surrogates))  # before the forward, which already reads it
                self.deepspeed.backward(surrogate())
        self.model.drop_copies()

    def step(self, index: int) -> float:
        """Set the learning rate of step ``index`` and update; return DeepSpeed's gradient norm."""
        self._set_learning_rate(self.deepspeed.optimizer, index)
        plain_norm = None
        if self.zero_stage == 0:  # in float32 it reports no norm, and would apply a NaN
            gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
            plain_norm = float(nn.utils.get_total_norm(gradients))
            if not plain_norm < float("inf"):
                self.deepspeed.optimizer.zero_grad(set_to_none=True)
                return plain_norm
        self.deepspeed.step()
        norm = self.deepspeed.get_global_grad_norm() if plain_norm is None else plain_norm
        # DeepSpeed returns -1 for a norm that is not finite, and None for a gradient that it has dropped.
        value = -1.0 if norm is None else float(norm)  # asked of the device once
        return float("inf") if value < 0 else value

    def train(self) -> None:
        """Switch dropout on."""
        self.deepspeed.train()

    def _choose(self, reduction: Reduction) -> Literal["coalesce", "boundary"]:
        """Resolve `auto`; refuse a reduction that this configuration does not support."""
        possible = self.zero_stage > 0 and hasattr(self.deepspeed.optimizer, "_coalesce_grad_reduction")
        if reduction == "coalesce" and not possible:
            raise UserError(
                "step.grad_reduction",
                f"coalesce does not work with ZeRO stage {self.zero_stage} "
                f"and {type(self.deepspeed.optimizer).__name__}",
                "set it to auto or boundary",
            )
        if reduction != "auto":
            return reduction
        # bf16 parameters that accumulate in float32: coalescing would add up in bf16 and ignore it.
        dtype = (self.resolved.config or {}).get("data_types", {}).get("grad_accum_dtype")
        if not possible or (dtype == "fp32" and self.resolved.enables("bf16", "fp16")):
            return "boundary"
        if self.zero_stage == 1:
            return "coalesce"  # full gradients are held anyway
        return "coalesce" if self._full_gradients_fit() else "boundary"

    def _full_gradients_fit(self) -> bool:
        """Whether full gradients take at most a quarter of the free device memory on every rank."""
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        size = sum(int(getattr(p, "ds_numel", p.numel())) * p.element_size() for p in trainable)
        device = self.world.device
        fits = device.type != "cuda" or size <= free_bytes(device) / 4
        return bool(self.world.all_min(int(fits)))


def build_engine(
    encoder: nn.Module,
    *,
    optimizer: OptimizerSettings,
    total_steps: int,
    world: World,
    deepspeed: ResolvedDeepSpeed | None = None,
    loss: LossSettings | None = None,
    grad_reduction: Reduction = "auto",
) -> Engine:
    """Put an encoder into training.

    Args:
        encoder: on any device, with ZeRO-3 best in host memory (see `partition`); with DeepSpeed
            it must not be used alone afterwards.
        optimizer: AdamW, schedule and clipping.
        total_steps: of the whole run, for the schedule.
        world: the ranks; with more than one the torch process group must be initialised.
        deepspeed: the resolved configuration, its `gradient_clipping` too; None: plain PyTorch.
        loss: read for the learned temperature only.
        grad_reduction: see `hbt_dist.contrastive.settings.StepSettings`.

    Raises:
        UserError: `gradient_checkpointing`, `grad_reduction` or `optimizer.parts` that cannot be used.
    """
    resolved = deepspeed or ResolvedDeepSpeed()
    if resolved.gradient_checkpointing:
        checkpoint_activations(encoder)
    freeze(divide(encoder, optimizer.parts))
    model = TrainedModel(encoder, loss, copies_weights=resolved.precision == "bf16_copy")
    if resolved.config is None:
        return PlainEngine(model, resolved, optimizer=optimizer, total_steps=total_steps, world=world)
    prepare_deepspeed(world)
    return DeepSpeedEngine(
        model, resolved, optimizer=optimizer, total_steps=total_steps, world=world, reduction=grad_reduction
    )


def checkpoint_activations(encoder: nn.Module) -> None:
    """Recompute activations in the backward pass; non-reentrant, which adapters and hooks need."""
    backbone = getattr(encoder, "backbone", encoder)
    name = "activation_checkpointing"  # transformers' older versions and other models: gradient_checkpointing
    if not hasattr(backbone, f"{name}_enable"):
        name = "gradient_checkpointing"
    enable = getattr(backbone, f"{name}_enable", None)
    if enable is None:
        raise UserError(
            "deepspeed.gradient_checkpointing",
            f"{type(backbone).__name__} does not support it",
            "set it to false",
        )
    enable(**{f"{name}_kwargs": {"use_reentrant": False}})
