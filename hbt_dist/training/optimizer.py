"""AdamW, its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from hbt_dist.config.settings import Settings


class OptimizerSettings(Settings):
    """AdamW with warm-up and decay."""

    learning_rate: float = Field(2e-5, gt=0, description="highest learning rate, reached after the warm-up")
    temperature_learning_rate: float = Field(
        1e-3,
        gt=0,
        description="the same of a learned temperature's logarithm, on the same course: AdamW moves it by "
        "about so much a step, whatever its gradient; at 2e-5 hundreds of steps would change it by 1 %",
    )
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


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Trainable parameters in groups: matrices with weight decay, vectors without, the learned temperature.

    Args:
        model: what `model.temperature` holds, if it has that, is the temperature.
    """
    scale = getattr(model, "temperature", None)
    temperature = [] if scale is None else list(scale.parameters())
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad and not any(parameter is other for other in temperature):
            (decayed if parameter.ndim > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay, "lr": settings.learning_rate},
        {"params": plain, "weight_decay": 0.0, "lr": settings.learning_rate},
        {"params": temperature, "weight_decay": 0.0, "lr": settings.temperature_learning_rate},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """torch's own AdamW: nothing is compiled, and DeepSpeed shards its state like that of its own.

    Fused, one pass over the states: several times faster on a CPU, where offloaded states are updated.
    """
    return torch.optim.AdamW(
        parameter_groups(model, settings),
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.epsilon,
        fused=True,
    )


def learning_rate(
    step: int, total_steps: int, settings: OptimizerSettings, highest: float | None = None
) -> float:
    """The learning rate of step 0, 1, ..., total_steps - 1; above 0 in all of them.

    Args:
        highest: of the course; None: `settings.learning_rate`.
    """
    highest = settings.learning_rate if highest is None else highest
    warmup = settings.warmup_steps or math.ceil(settings.warmup_ratio * total_steps)
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    if settings.schedule == "constant":
        return highest
    left = max(total_steps - step, 0) / max(total_steps - warmup, 1)
    if settings.schedule == "cosine":
        return highest * 0.5 * (1 - math.cos(math.pi * left))
    return highest * left
