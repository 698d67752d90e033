"""Find how many tokens a model has positions for."""

from __future__ import annotations

from typing import Any

from torch import nn

_LEARNED = ("position_embeddings", "embed_positions", "wpe")


def most_tokens(backbone: nn.Module) -> int | None:
    """Return the longest text that a backbone can read, special tokens included.

    Learned positions end: a longer text fails. Rotary positions do not end, but a model has not been trained
    beyond `max_position_embeddings`. Relative and linear biases have no limit: None.
    """
    learned = [
        module.num_embeddings - _first(module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in _LEARNED
    ]
    if learned:
        return min(learned)
    config: Any = backbone.config
    rotary = any("rope" in key or "rotary" in key for key, value in config.to_dict().items() if value)
    limit = getattr(config, "max_position_embeddings", None) if rotary else None
    return int(limit) if limit else None


def _first(positions: nn.Embedding) -> int:
    """Return the position of the first token: RoBERTa and its kin count from the one after padding."""
    offset = int(getattr(positions, "offset", 0))  # OPT
    return offset if positions.padding_idx is None else positions.padding_idx + 1
