"""Embed texts with a transformers backbone, pooling, optional dense layers, a cut and normalisation.

Question and passage go through the same weights.

Shapes: n texts, T tokens (longest text of the n), H hidden width, D embedding width after the cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hbt_dist.common.devices import move
from hbt_dist.models.adapters import TrainedAdapter
from hbt_dist.models.attention import (
    Rows,
    can_pack,
    first_position,
    has_row_attention,
    positions,
)
from hbt_dist.models.folders import Prompts
from hbt_dist.models.head import DenseLayer, pool, pool_packed
from hbt_dist.models.settings import TextSettings


class Encoder(nn.Module):
    """Backbone, pooling, dense layers, cut, normalisation: token ids to one vector per text."""

    def __init__(
        self, backbone: nn.Module, text: TextSettings, dense: list[DenseLayer] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.text = text
        self.dense = nn.ModuleList(dense or [])

    @property
    def width(self) -> int:
        """Return D, the embedding width."""
        return self.text.width or self.full_width

    @property
    def full_width(self) -> int:
        """Return the width of embeddings before they are cut to `text.width`."""
        if len(self.dense):
            last = self.dense[-1]
            assert isinstance(last, DenseLayer)
            return last.linear.out_features
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Encode texts.

        Where `hbt_dist.models.attention` covers the backbone, and the lengths are known without asking an
        accelerator for them, rows are packed (`can_pack`) or get a ready mask.

        Args:
            input_ids: (n, T) int64, padded on either side.
            attention_mask: (n, T), 1 for tokens and 0 for padding; 2 for tokens of the prompt, which pooling
                leaves out.
            lengths: (n,) tokens of each row, which is padded on the right; default: counted, on a CPU.

        Returns:
            (n, D) embeddings, of length 1 if `text.normalize`.
        """
        if lengths is None:
            input_ids, attention_mask = _padded_on_the_right(input_ids, attention_mask)
        pooled_nT = None if self.text.include_prompt else attention_mask == 1
        if pooled_nT is not None:
            attention_mask = attention_mask.clamp(max=1)
        if lengths is None and input_ids.device.type == "cpu":
            lengths = attention_mask.sum(1).tolist()
        if lengths is not None and min(lengths) > 0 and self.packs(input_ids.device):
            pooled = self._pooled_packed(input_ids, attention_mask, lengths, pooled_nT)
        else:
            how: dict[str, Any] = {"attention_mask": attention_mask}
            if has_row_attention(self.backbone):
                is_padded = lengths is None or min(lengths) < input_ids.shape[1]
                mask = attention_mask[:, None, None, :].bool() if is_padded else None
                how = {"rows": Rows(lengths or (), mask)}
            hidden_nTH = self._hidden(input_ids=input_ids, **how)
            pooled = pool(hidden_nTH, attention_mask, self.text.pooling, pooled_nT)
        for layer in self.dense:
            pooled = layer(pooled)
        pooled = pooled[:, : self.text.width]
        return nn.functional.normalize(pooled, dim=-1) if self.text.normalize else pooled

    def packs(self, device: torch.device, dtype: torch.dtype | None = None) -> bool:
        """Return whether rows are encoded without padding on a device.

        Args:
            device: of the inputs.
            dtype: of the products; default: that of autocast if it is on, else of the weights.
        """
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self.dtype
        return can_pack(self.backbone, device, dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    def _hidden(self, **inputs: Any) -> Tensor:
        """Return the token embeddings (n, T, H); decoders keep no keys and values of the texts."""
        if getattr(self.backbone.config, "use_cache", False):
            inputs["use_cache"] = False
        hidden: Tensor = self.backbone(**inputs).last_hidden_state
        return hidden

    def _pooled_packed(
        self, input_ids: Tensor, mask: Tensor, lengths: Sequence[int], pooled_nT: Tensor | None
    ) -> Tensor:
        """Return the pooled embeddings (n, H) of rows that the backbone reads as one row of S tokens."""
        device, width = input_ids.device, input_ids.shape[1]
        in_row = positions(lengths)
        if device.type == "cpu":
            chosen = mask.flatten().bool()
        else:  # without asking the device where its ones are
            index = np.repeat(np.arange(len(lengths)) * width, lengths) + in_row
            chosen = move(torch.from_numpy(index), device)
        tokens_S = input_ids.flatten()[chosen]
        pooled_S = None if pooled_nT is None else pooled_nT.flatten()[chosen]
        ends = np.cumsum(lengths)
        starts = move(torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)), device)
        rows = Rows(lengths, starts=None if device.type == "cpu" else starts, packed=True)
        position_ids = move(torch.from_numpy(in_row + first_position(self.backbone)), device)
        hidden_SH = self._hidden(input_ids=tokens_S[None], position_ids=position_ids[None], rows=rows)[0]
        return pool_packed(hidden_SH, starts, self.text.pooling, pooled_S)


def _padded_on_the_right(input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Move the padding of rows behind their tokens: learned positions count from the first token."""
    order = (mask == 0).long().argsort(dim=1, stable=True)
    return input_ids.gather(1, order), mask.gather(1, order)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with what is needed to give it texts."""

    encoder: Encoder
    tokenizer: Any
    source: str
    facts: dict[str, Any] = field(default_factory=dict)  # what its training recorded: languages, run, data
    notes: tuple[str, ...] = ()  # lines on what was lowered or not used when it was loaded
    limits: dict[str, int] = field(default_factory=dict)  # tokens that the folder records, by key of `text`
    adapter: TrainedAdapter | None = None  # if the backbone has adapters in training
    prompts: Prompts = field(default_factory=Prompts)  # that the folder records

    def __repr__(self) -> str:
        backbone, text = self.encoder.backbone, self.text
        parameters = sum(weights.numel() for weights in backbone.parameters())
        return (
            f"LoadedEncoder {self.source}: {type(backbone).__name__}, {parameters / 1e6:,.1f} M parameters, "
            f"width {self.encoder.width}, {text.pooling} pooling, questions of {text.max_question_tokens} "
            f"tokens, passages of {text.max_passage_tokens}"
        )

    @property
    def text(self) -> TextSettings:
        """Return how texts become vectors."""
        return self.encoder.text

    @property
    def exported_text(self) -> TextSettings:
        """Return the settings for a trained model: shorter limits of its training do not replace its own."""
        longer = {key: max(limit, getattr(self.text, key)) for key, limit in self.limits.items()}
        return self.text.model_copy(update=longer)
