"""Find the transformer layers and the word embeddings of a backbone of any architecture."""

from __future__ import annotations

from typing import Any

from torch import nn


def transformer_layers(backbone: nn.Module) -> list[nn.Module]:
    """Return the stack of transformer layers from first to last; empty if there is none.

    transformers marks its layers as `GradientCheckpointingLayer`; without marks the longest list of modules
    of one class is the stack, if only one list is that long (XLM lists attentions and products separately).
    Adapters inside the layers change nothing.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    marked: list[nn.Module] = []
    inner: set[int] = set()
    for module in backbone.modules():
        if isinstance(module, GradientCheckpointingLayer) and id(module) not in inner:
            marked.append(module)
            inner.update(map(id, module.modules()))
    if marked:
        return marked
    lists = [list(module) for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    stacks = [entries for entries in lists if len({type(entry) for entry in entries}) == 1]
    longest = max(map(len, stacks), default=0)
    candidates = [entries for entries in stacks if len(entries) == longest]
    return candidates[0] if len(candidates) == 1 else []


def word_embeddings(backbone: Any) -> nn.Module | None:
    """Return the module of the word embeddings; None for a model without one."""
    try:
        return backbone.get_input_embeddings()  # type: ignore[no-any-return]
    except (AttributeError, NotImplementedError):
        return None
