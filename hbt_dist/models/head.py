"""Turn token embeddings into one vector per text: pooling, and sentence-transformers' dense layers.

Shapes: n texts, T tokens of the longest, S tokens of all, H hidden width.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.models.files import check_file, check_keys, read_json

_write_json = partial(write_json, indent=2)


def pool(hidden_nTH: Tensor, attention_mask: Tensor, pooling: str, pooled_nT: Tensor | None = None) -> Tensor:
    """Reduce token embeddings (n, T, H) to (n, H); padding never counts.

    Args:
        hidden_nTH: token embeddings.
        attention_mask: (n, T), 1 for tokens.
        pooling: which token embeddings count.
        pooled_nT: the tokens that pooling reads, without the prompt; default: all. As sentence-transformers
            computes a row without any: zeros, for `cls` its first token.
    """
    if pooled_nT is not None:
        pooled = pool(hidden_nTH, pooled_nT.to(attention_mask.dtype), pooling)
        if pooling == "cls":
            return torch.where(
                pooled_nT.any(1, keepdim=True), pooled, pool(hidden_nTH, attention_mask, pooling)
            )
        return pooled * pooled_nT.any(1, keepdim=True)
    if pooling == "mean":
        mask_nT1 = attention_mask.unsqueeze(-1).to(hidden_nTH.dtype)
        sums_nH = (hidden_nTH * mask_nT1).sum(1, dtype=_sum_dtype(hidden_nTH))
        return sums_nH / mask_nT1.sum(1, dtype=sums_nH.dtype).clamp(min=1e-9)
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    if pooling == "cls":
        index = torch.where(attention_mask > 0, positions, attention_mask.shape[1]).amin(1)
        index = index.clamp(max=attention_mask.shape[1] - 1)
    else:
        index = torch.where(attention_mask > 0, positions, 0).amax(1)
    return hidden_nTH[torch.arange(hidden_nTH.shape[0], device=hidden_nTH.device), index]


def pool_packed(hidden_SH: Tensor, starts: Tensor, pooling: str, pooled_S: Tensor | None = None) -> Tensor:
    """Do what `pool` does for rows that follow each other, the i-th from starts[i] to starts[i + 1]."""
    if pooled_S is not None:
        return _pool_packed_without_prompt(hidden_SH, starts, pooling, pooled_S)
    if pooling == "mean":
        hidden_SH = hidden_SH.to(_sum_dtype(hidden_SH))
        # "unsafe" leaves out the check that the rows end with the tokens, for which the host would wait.
        return torch.segment_reduce(hidden_SH, "mean", offsets=starts.long(), unsafe=True)
    return hidden_SH[starts[:-1] if pooling == "cls" else starts[1:] - 1]


def _pool_packed_without_prompt(hidden_SH: Tensor, starts: Tensor, pooling: str, pooled_S: Tensor) -> Tensor:
    ends = starts[1:].long()
    counts_S = nn.functional.pad(pooled_S.long().cumsum(0), (1, 0))  # pooled tokens before each token
    num_n1 = (counts_S[ends] - counts_S[starts[:-1].long()])[:, None]
    if pooling == "mean":
        hidden_SH = hidden_SH.to(_sum_dtype(hidden_SH)) * pooled_S[:, None]
        sums_nH = torch.segment_reduce(hidden_SH, "sum", offsets=starts.long(), unsafe=True)
        return sums_nH / num_n1.clamp(min=1)
    if pooling == "last":
        return hidden_SH[ends - 1] * (num_n1 > 0)
    first = torch.where(num_n1[:, 0] > 0, ends - num_n1[:, 0], starts[:-1].long())
    return hidden_SH[first]  # the prompt precedes the text, so the pooled tokens are a row's last ones


def _sum_dtype(hidden: Tensor) -> torch.dtype:
    """Sum over tokens in float32 at least: in bfloat16 the result alone would lose 2e-3 of its length."""
    return torch.promote_types(hidden.dtype, torch.float32)


class DenseLayer(nn.Module):
    """A projection after pooling, as LaBSE has one: activation(W x + b)."""

    def __init__(self, linear: nn.Linear, activation: nn.Module) -> None:
        super().__init__()
        self.linear = linear
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return self.activation(self.linear(x))


def cut_layer(full_width: int, width: int) -> DenseLayer:
    """Return a layer that keeps the first `width` values: a cut that sentence-transformers repeats."""
    linear = nn.Linear(full_width, width, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(width, full_width))
    return DenseLayer(linear, nn.Identity())


def is_cut(layer: DenseLayer) -> bool:
    """Return whether a layer only keeps its first values, as `cut_layer` does."""
    weight = layer.linear.weight
    is_linear = layer.linear.bias is None and isinstance(layer.activation, nn.Identity)
    return is_linear and torch.equal(weight, torch.eye(*weight.shape))


def whole_copy(layer: nn.Module, weights: dict[str, Tensor]) -> DenseLayer:
    """Return a float32 layer with these weights: an engine may have rounded those of `layer`."""
    assert isinstance(layer, DenseLayer)
    linear = layer.linear
    whole = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None)
    copy = DenseLayer(whole, layer.activation)
    copy.load_state_dict(weights)
    return copy


_READ = ("in_features", "out_features", "bias", "activation_function")
_NEUTRAL = dict.fromkeys(("module_input_name", "module_output_name"), ("sentence_embedding",))
_ACTIVATIONS = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU}


def load_dense(folder: Path) -> DenseLayer:
    """Read a dense layer from its folder.

    Raises:
        UserError: a file is damaged, or the activation or another key is not supported.
    """
    file, weights_file = folder / "config.json", folder / "model.safetensors"
    check_file(file)
    check_file(weights_file)
    config = read_json(file)
    check_keys(file, config, _READ, _NEUTRAL)
    name = config["activation_function"].rsplit(".", 1)[-1]
    if name not in _ACTIVATIONS:
        raise UserError(
            str(file), f"activation {name} is not supported", f"supported: {', '.join(_ACTIVATIONS)}"
        )
    linear = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    weights = load_file(weights_file)
    linear.load_state_dict({key.rsplit(".", 1)[-1]: value for key, value in weights.items()})
    return DenseLayer(linear, _ACTIVATIONS[name]())


def save_dense(layer: DenseLayer, folder: Path) -> None:
    """Write a dense layer as sentence-transformers reads it; the folder must not exist."""
    folder.mkdir()
    activation = next(name for name, kind in _ACTIVATIONS.items() if isinstance(layer.activation, kind))
    module = "linear.Identity" if activation == "Identity" else f"activation.{activation}"
    _write_json(
        folder / "config.json",
        {
            "in_features": layer.linear.in_features,
            "out_features": layer.linear.out_features,
            "bias": layer.linear.bias is not None,
            "activation_function": f"torch.nn.modules.{module}",
        },
    )
    weights = layer.linear.state_dict().items()
    state = {f"linear.{name}": value.detach().cpu().contiguous() for name, value in weights}
    save_file(state, folder / "model.safetensors")
