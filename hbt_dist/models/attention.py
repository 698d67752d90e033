"""Attend within rows of known length: packed without padding, or padded with a ready mask.

transformers makes the mask itself, and asks the device in every forward whether any token is padded: the host
waits once per chunk. It makes none for an attention function without a mask function, as `attend` is. Packed
rows are one long row for everything but attention, so nothing is computed for padding.

The families of `AFTER_PADDING` and `DECODERS` are covered: full attention, no bias on scores. Other models,
also those with sliding windows, keep transformers' way; so does everything if
`model.attention_implementation` names an implementation.

Shapes: n rows, T tokens of the longest, S tokens of all rows, A heads, H width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

NAME = "hbt_dist_rows"

#: Model types that are covered -> whether positions count from the position after padding.
AFTER_PADDING = {
    "bert": False,
    "electra": False,
    "distilbert": False,
    "roberta": True,
    "xlm-roberta": True,
    "xlm-roberta-xl": True,
    "camembert": True,
}


#: Decoders that are covered if no layer has a sliding window; causal or not, as their configuration says.
DECODERS = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Rows:
    """What attention needs to know of the rows of one forward.

    Attributes:
        lengths: tokens of each row, (n,), on the host.
        mask: (n, 1, 1, T) bool, True for tokens, if the rows are padded and differ in length; else None.
        starts: (n + 1,) int32 on the device, where each packed row begins, if a fused kernel reads it.
        packed: whether the rows lie one after another, as one row of S tokens.
    """

    lengths: Sequence[int]
    mask: Tensor | None = None
    starts: Tensor | None = None
    packed: bool = False


def use_row_attention(backbone: Any) -> None:
    """Let a transformers model of a covered family attend by `attend`; others stay as they are."""
    from transformers import AttentionInterface

    if _covers(backbone.config):
        AttentionInterface.register(NAME, attend)
        backbone.set_attn_implementation(NAME)


def _covers(config: Any) -> bool:
    kind = getattr(config, "model_type", None)
    if kind not in DECODERS:
        return kind in AFTER_PADDING
    layers = getattr(config, "layer_types", None) or ()
    return getattr(config, "sliding_window", None) is None and set(layers) <= {"full_attention"}


def has_row_attention(backbone: Any) -> bool:
    """Return whether `use_row_attention` covered this model."""
    return getattr(getattr(backbone, "config", None), "_attn_implementation", None) == NAME


def can_pack(backbone: nn.Module, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether rows can be packed: on a CPU always, on CUDA where torch's kernel takes them.

    That kernel (`torch.nn.attention.varlen`) has no dropout and no float32.
    """
    if not has_row_attention(backbone) or device.type == "cpu":
        return has_row_attention(backbone)
    names = ("attention_probs_dropout_prob", "attention_dropout")
    drops = backbone.training and any(getattr(backbone.config, name, 0.0) > 0 for name in names)
    config: Any = backbone.config
    is_decoder = config.model_type in DECODERS
    return not drops and dtype in (torch.bfloat16, torch.float16) and _varlen_kernel(is_decoder) is not None


def _varlen_kernel(is_decoder: bool) -> Callable[..., Any] | None:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # torch before 2.10
        return None
    takes = signature(varlen_attn).parameters
    return varlen_attn if not is_decoder or {"window_size", "enable_gqa"} <= takes.keys() else None


def first_position(backbone: Any) -> int:
    """Return the position of a row's first token."""
    return backbone.config.pad_token_id + 1 if AFTER_PADDING.get(backbone.config.model_type) else 0


def positions(lengths: Sequence[int]) -> np.ndarray:
    """Return the position of every packed token in its row, counted from 0: (S,)."""
    sizes = np.asarray(lengths, np.int64)
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    rows: Rows | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend within rows; called by transformers, see `AttentionInterface`.

    Args:
        module: the attention layer; its direction is read.
        query, key, value: (n, A, T, H) padded, or (1, A, S, H) packed; keys and values may have fewer heads.
        attention_mask: what a caller other than `Encoder` gave to the model.
        scaling: of the scores, default 1 / sqrt(H).
        dropout: of the attention weights.
        is_causal: direction that the model's configuration asks for, default: that of the layer.
        rows: given to the backbone by `Encoder`; None: no row is padded.

    Returns:
        (n, T, A, H) or (1, S, A, H), and no weights.
    """
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    how: dict[str, Any] = {"scale": scaling}
    if query.shape[1] != key.shape[1]:
        how["enable_gqa"] = True
    if rows is None or not rows.packed:
        # Padding is behind the tokens, where no token of a causal model looks.
        mask = attention_mask if rows is None else None if causal else rows.mask
        out = scaled_dot_product_attention(
            query, key, value, mask, dropout, is_causal=causal and mask is None, **how
        )
        return out.transpose(1, 2).contiguous(), None
    # squeeze and split, whose gradients are views and one copy; those of indices would be filled with zeros.
    packed = [x.squeeze(0) for x in (query, key, value)]  # (A, S, H)
    if rows.starts is not None:
        kernel, longest = _varlen_kernel(causal or "enable_gqa" in how), max(rows.lengths)
        assert kernel is not None
        if causal:
            how["window_size"] = (-1, 0)
        tokens = [x.transpose(0, 1) for x in packed]
        return kernel(*tokens, rows.starts, rows.starts, longest, longest, **how)[None], None
    # Rows of equal length, neighbours in a sorted chunk, attend at once.
    groups = [(length, len(list(equal))) for length, equal in groupby(rows.lengths)]
    sizes = [length * count for length, count in groups]
    pieces = []
    for (length, count), *parts in zip(groups, *(x.split(sizes, 1) for x in packed), strict=True):
        q, k, v = (x.unflatten(1, (count, length)).transpose(0, 1) for x in parts)  # (count, A, length, H)
        out = scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal, **how)
        pieces.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)[None], None
