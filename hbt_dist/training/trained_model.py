"""Put the encoder and a learned temperature into one module, which an engine trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.models.encoder import Encoder


class LearnedTemperature(nn.Module):
    """log(1 / temperature), a parameter of one element: DeepSpeed fails on parameters without dimensions."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(-torch.log(torch.tensor([temperature])))

    def forward(self) -> Tensor:
        """Return (1,), a copy: under ZeRO-3 the parameter exists during this call only."""
        return self.log_scale.clone()


class TrainedModel(nn.Module):
    """The encoder and the learned temperature; the module that an engine wraps.

    Args:
        encoder: `Encoder`, or any module from token ids and mask to (n, D).
        loss: read for the learned temperature only.
        copies_weights: compute with a copy of the encoder's weights in bfloat16, made at the first forward
            after `drop_copies` and used by all chunks of a step. Weights, and gradients of all chunks added
            up, stay in float32: the copy is a part of every chunk's graph. Frozen weights are copied once.
    """

    def __init__(
        self, encoder: nn.Module, loss: LossSettings | None = None, *, copies_weights: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.copies_weights = copies_weights
        self._copies: dict[str, Tensor] = {}
        self._frozen_copies: dict[str, Tensor] = {}
        learned = loss is not None and loss.learn_temperature
        self.temperature = LearnedTemperature(loss.temperature) if loss is not None and learned else None

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return embeddings (n, D), and log(1 / temperature) (1,) if it is learned."""
        known = (lengths,) if isinstance(self.encoder, Encoder) else ()
        inputs = (input_ids, attention_mask, *known)
        embeddings = self._with_copies(inputs) if self.copies_weights else self.encoder(*inputs)
        return embeddings, None if self.temperature is None else self.temperature()

    def _with_copies(self, inputs: tuple[Any, ...]) -> Tensor:
        if not self._copies:
            # With a graph even if the first forward has none. A cast saves nothing for its backward, so each
            # chunk can go backwards through it.
            with torch.enable_grad():
                self._copies = self._frozen_copies | {
                    name: parameter.to(torch.bfloat16) if parameter.is_floating_point() else parameter
                    for name, parameter in self.encoder.named_parameters()
                    if name not in self._frozen_copies
                }
                self._frozen_copies = {name: c for name, c in self._copies.items() if not c.requires_grad}
        with torch.autocast(inputs[0].device.type, enabled=False):
            return cast("Tensor", torch.func.functional_call(self.encoder, self._copies, inputs))

    def drop_copies(self) -> None:
        """Free the copy; the next forward makes one of the weights of that time."""
        self._copies = {}
