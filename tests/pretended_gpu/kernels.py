"""Stand in for kernels that torch has on CUDA only: attention over packed rows, written out row by row.

`torch.nn.attention.varlen` computes it with FlashAttention in bfloat16 and float16. Here sums are in float32,
and results in the dtype of the input.

Shapes: S tokens of all rows, A heads, H width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    starts_k: Tensor,
    longest: int,
    longest_k: int,
    is_causal: bool = False,
    scale: float | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `torch_attn::_varlen_attn` does: (S, A, H), log of the sums (A, S), random state."""
    _check(query, starts, starts_k, longest, longest_k, is_causal)
    out, sums = torch.empty_like(query), torch.empty(query.shape[1], query.shape[0])
    for rows in _rows(starts):
        scores = _scores(query[rows], key[rows], scale)
        sums[:, rows] = scores.logsumexp(-1)
        out[rows] = (scores.softmax(-1) @ _by_head(value[rows])).transpose(0, 1).to(out.dtype)
    return out, sums, torch.zeros(2, dtype=torch.uint64)


def varlen_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    sums: Tensor,
    starts: Tensor,
    starts_k: Tensor,
    longest: int,
    longest_k: int,
    is_causal: bool,
    _rng_state: Tensor,
    scale: float | None = None,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value, (S, A, H) each."""
    _check(query, starts, starts_k, longest, longest_k, is_causal)
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    factor = scale or query.shape[-1] ** -0.5
    for rows in _rows(starts):
        weights = (_scores(query[rows], key[rows], scale) - sums[:, rows, None]).exp()
        grad = _by_head(grad_out[rows])
        of_weights = grad @ _by_head(value[rows]).transpose(1, 2)
        of_scores = weights * (of_weights - (grad * _by_head(out[rows])).sum(-1, keepdim=True)) * factor
        parts = (
            of_scores @ _by_head(key[rows]),
            of_scores.transpose(1, 2) @ _by_head(query[rows]),
            weights.transpose(1, 2) @ grad,
        )
        for gradient, part in zip(gradients, parts, strict=True):
            gradient[rows] = part.transpose(0, 1).to(gradient.dtype)
    return gradients


def _check(
    query: Tensor, starts: Tensor, starts_k: Tensor, longest: int, longest_k: int, is_causal: bool
) -> None:
    if query.dtype not in (torch.bfloat16, torch.float16):
        raise RuntimeError("FlashAttention only support fp16 and bf16 data type")
    if starts.dtype != torch.int32:
        raise RuntimeError("cu_seqlens_q must have dtype int32")
    if is_causal or not torch.equal(starts, starts_k) or longest != longest_k:
        raise NotImplementedError("the pretended GPU attends within rows, in both directions")
    if longest < int(starts.diff().max()):
        raise RuntimeError("a row is longer than the longest row, as the kernel was called")


def _rows(starts: Tensor) -> Iterator[slice]:
    return (slice(start, stop) for start, stop in pairwise(starts.tolist()))


def _by_head(tokens: Tensor) -> Tensor:
    """(T, A, H) -> (A, T, H) in float32."""
    return tokens.transpose(0, 1).float()


def _scores(query: Tensor, key: Tensor, scale: float | None) -> Tensor:
    """(A, T, T)."""
    return _by_head(query) @ _by_head(key).transpose(1, 2) * (scale or query.shape[-1] ** -0.5)
