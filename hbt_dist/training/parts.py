"""Divide an encoder into parts with separate learning rates, or frozen: word embeddings, layers, head.

With L layers and decay d, layer i of 1 to L learns at d ** (L - i) of the learning rate. Parameters in front
of the layers (word embeddings, positions, their norm) learn at d ** L; those behind them at 1. That is the
layer-wise decay of ELECTRA (arXiv 2003.10555). Word embeddings and head have separate factors.

Adapters belong to their layer. Word embeddings that another module shares stay word embeddings.
"In front of" means registered earlier in the model than the first layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.models.layers import transformer_layers, word_embeddings
from hbt_dist.training.settings import PartSettings

_WORDS, _FRONT, _BEHIND, _HEAD = "word embeddings", "rest in front of the layers", "rest", "head"


@dataclass(frozen=True)
class Part:
    """Parameters that learn at one rate.

    Attributes:
        name: of the part, for people.
        parameters: each parameter of the model is in one part.
        factor: of the learning rate; 0: frozen.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    factor: float


def divide(encoder: nn.Module, settings: PartSettings | None) -> list[Part]:
    """Return the parts of an encoder; a single one without settings. Changes nothing.

    Args:
        encoder: with its backbone as `backbone`, or a backbone; dense layers as `dense`.

    Raises:
        UserError: the settings name a part that the model does not have.
    """
    if settings is None:
        return [Part("encoder", tuple(encoder.parameters()), 1.0)]
    backbone: Any = getattr(encoder, "backbone", encoder)
    layers = _layers(backbone, settings)
    words, head = word_embeddings(backbone), getattr(encoder, "dense", None)
    names = {id(p): f"layer {i}" for i, layer in enumerate(layers, 1) for p in layer.parameters()}
    names |= {id(p): _HEAD for p in ([] if head is None else head.parameters())}
    names |= {id(p): _WORDS for p in ([] if words is None else words.parameters())}
    parts: dict[str, list[nn.Parameter]] = defaultdict(list)
    rest = _FRONT if layers else _BEHIND
    for parameter in encoder.parameters():
        name = names.get(id(parameter), rest)
        if name.startswith("layer "):
            rest = _BEHIND
        parts[name].append(parameter)
    _check(parts, type(backbone).__name__, settings)
    factors = _factors(len(layers), settings)
    return [Part(name, tuple(parameters), factors[name]) for name, parameters in parts.items()]


def _layers(backbone: Any, settings: PartSettings) -> list[nn.Module]:
    """Return the layers, after a check that they are the whole stack if the settings need one."""
    layers = transformer_layers(backbone)
    needed = settings.layer_decay < 1 or settings.freeze_layers > 0
    expected = getattr(getattr(backbone, "config", None), "num_hidden_layers", len(layers))
    model = type(backbone).__name__
    if needed and (not layers or len(layers) != expected):
        raise UserError(
            "optimizer.parts",
            f"expected a stack of {expected or 'some'} layers in {model}, got {len(layers)}",
            "leave out layer_decay and freeze_layers for this model",
        )
    if settings.freeze_layers > len(layers):
        raise UserError(
            "optimizer.parts.freeze_layers",
            f"expected at most {len(layers)}, the layers of {model}, got {settings.freeze_layers}",
            "set it to a smaller number",
        )
    return layers


def _check(parts: dict[str, list[nn.Parameter]], model: str, settings: PartSettings) -> None:
    """Refuse a rate of a part that the model does not have: it would change nothing."""
    for part, keys in ((_WORDS, ("embedding_rate", "freeze_embeddings")), (_HEAD, ("head_rate",))):
        changed = [key for key in keys if getattr(settings, key) != PartSettings.model_fields[key].default]
        if changed and part not in parts:
            what = "dense layers behind its pooling" if part == _HEAD else "word embeddings"
            raise UserError(
                f"optimizer.parts.{changed[0]}", f"{model} has no {what}", "leave it out for this model"
            )


def _factors(num_layers: int, settings: PartSettings) -> dict[str, float]:
    """Return the factor of each part's learning rate."""
    factors = {
        f"layer {i}": 0.0 if i <= settings.freeze_layers else settings.layer_decay ** (num_layers - i)
        for i in range(1, num_layers + 1)
    }
    front = 0.0 if settings.freeze_layers else settings.layer_decay**num_layers
    words = 0.0 if settings.freeze_embeddings else front * settings.embedding_rate
    return factors | {_WORDS: words, _FRONT: front, _BEHIND: 1.0, _HEAD: settings.head_rate}


def freeze(parts: list[Part]) -> None:
    """Take the parameters of frozen parts out of the gradient, and so out of the optimizer.

    Raises:
        UserError: nothing is left to train.
    """
    for part in parts:
        for parameter in part.parameters:
            parameter.requires_grad_(parameter.requires_grad and part.factor > 0)
    if not any(parameter.requires_grad for part in parts for parameter in part.parameters):
        raise UserError("optimizer.parts", "freezes the whole model", "lower freeze_layers")


def describe(parts: list[Part], learning_rate: float) -> str:
    """Return one line: parts with their parameters and highest learning rates, layers as one."""
    lines: list[str] = []
    for stack, group in groupby(parts, key=lambda part: part.name.startswith("layer ")):
        members = list(group)
        if stack and len(members) > 1:
            lines += _described(f"layers 1 to {len(members)}", members, learning_rate)
        else:
            lines += [line for part in members for line in _described(part.name, [part], learning_rate)]
    return f"parts: {'; '.join(lines)}"


def _described(name: str, parts: list[Part], learning_rate: float) -> Iterator[str]:
    """Yield what is trained of these parts with its learning rates, and what is frozen."""
    trained = [part for part in parts if any(p.requires_grad for p in part.parameters)]
    parameters = [p for part in parts for p in part.parameters]
    rates = sorted({learning_rate * part.factor for part in trained})
    if rates:
        count = sum(_size(p) for p in parameters if p.requires_grad)
        span = " to ".join(f"{rate:.3g}" for rate in rates[:: len(rates) - 1 or 1])  # lowest and highest
        yield f"{name} {count:,} parameters at {span}"
    if frozen := sum(_size(p) for p in parameters if not p.requires_grad):
        yield f"{name} {frozen:,} parameters frozen"


def _size(parameter: nn.Parameter) -> int:
    """Count the elements; under ZeRO-3 over all ranks."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
