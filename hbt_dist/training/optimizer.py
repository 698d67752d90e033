"""AdamW, its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from hbt_dist.settings import Settings


class OptimizerSettings(Settings):
    """AdamW with warm-up and decay."""

    learning_rate: float = Field(2e-5, gt=0, description="highest learning rate, reached after the warm-up")
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay rates of the two moments")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(
        0.01, ge=0, description="decoupled decay of matrices; biases, norms and the temperature have none"
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps of linear warm-up; above 0 it replaces warmup_ratio"
    )
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of all steps used for linear warm-up")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="course of the learning rate after the warm-up, to 0 at the last step"
    )
    gradient_clipping: float | None = Field(
        None,
        ge=0,
        description="largest norm of the gradient, 0 for no clipping; empty: what the DeepSpeed file says, "
        "and 1.0 without DeepSpeed",
    )

    @model_validator(mode="after")
    def _check(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in 0..1, 1 excluded")
        return self


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: matrices with weight decay, vectors and the temperature without."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """torch's own AdamW: nothing is compiled, and DeepSpeed shards its state like that of its own.

    Fused, one pass over the states: several times faster on a CPU, where offloaded states are updated.
    """
    return torch.optim.AdamW(
        parameter_groups(model, settings.weight_decay),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, settings: OptimizerSettings) -> float:
    """The learning rate of step 0, 1, ..., total_steps - 1; above 0 in all of them."""
    warmup = settings.warmup_steps or math.ceil(settings.warmup_ratio * total_steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return settings.learning_rate
    left = max(total_steps - step, 0) / max(total_steps - warmup, 1)
    if settings.schedule == "cosine":
        return settings.learning_rate * 0.5 * (1 - math.cos(math.pi * left))
    return settings.learning_rate * left
