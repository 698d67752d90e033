"""Take the pooler off a backbone for training, and write its weights back at export.

`AutoModel` gives BERT-like models a layer that no embedding passes through: in training it never gets a
gradient. A folder without its weights makes transformers warn of "newly initialized" weights.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

_KEPT = "removed_pooler"


def remove_pooler(backbone: Any, *, is_trained: bool) -> None:
    """Take the pooler off an architecture that can do without it.

    Args:
        backbone: a model of transformers.
        is_trained: whether its weights come from a file; random ones are not kept for the export.
    """
    if "add_pooling_layer" not in inspect.signature(type(backbone).__init__).parameters:
        return
    if backbone.pooler is not None and is_trained:
        setattr(backbone, _KEPT, backbone.pooler.state_dict(prefix="pooler."))
    backbone.pooler = None


def pooler_weights(backbone: Any) -> dict[str, Tensor]:
    """Return the weights that `AutoModel` expects of the exported folder and that the backbone lacks.

    They are those of the start model. If it has none, the layer passes the first token's embedding through.
    """
    kept: dict[str, Tensor] = getattr(backbone, _KEPT, {})
    if kept or "add_pooling_layer" not in inspect.signature(type(backbone).__init__).parameters:
        return kept
    with torch.device("meta"):
        pooler = type(backbone)(backbone.config).pooler
    return {
        name: torch.eye(*weight.shape) if weight.dim() == 2 else torch.zeros(weight.shape)
        for name, weight in pooler.state_dict(prefix="pooler.").items()
    }
