"""Build AdamW with its parameter groups; compute the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from hbt_dist.training.parts import divide
from hbt_dist.training.settings import OptimizerSettings


def parameter_groups(model: nn.Module, settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Return groups of trainable parameters: matrices with weight decay, vectors without, the temperature.

    Parts of equal learning rate share their two groups: ZeRO 1 and 2 reduce and gather group by group.

    Args:
        model: the encoder, or a module with it as `encoder` and with `temperature` if that is learned.

    Raises:
        UserError: see `divide`.
    """
    rates: dict[float, list[nn.Parameter]] = {}
    for part in divide(getattr(model, "encoder", model), settings.parts):
        trainable = [parameter for parameter in part.parameters if parameter.requires_grad]
        rates.setdefault(settings.learning_rate * part.factor, []).extend(trainable)
    groups: list[dict[str, Any]] = []
    for rate, parameters in rates.items():
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": settings.weight_decay, "lr": rate})
        groups.append({"params": vectors, "weight_decay": 0.0, "lr": rate})
    if (temperature := getattr(model, "temperature", None)) is not None:
        parameters = list(temperature.parameters())
        groups.append({"params": parameters, "weight_decay": 0.0, "lr": settings.temperature_learning_rate})
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return torch's AdamW: nothing is compiled, and DeepSpeed shards its state.

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
    """Return the learning rate of a step, 0 to total_steps - 1; it is above 0.

    Args:
        highest: learning rate after the warm-up; None: `settings.learning_rate`.
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
