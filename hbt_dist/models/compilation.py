"""Compile the layers of a backbone with torch.compile: elementwise work between products runs in one kernel.

Each transformer layer is compiled by itself: layers of one kind share the compiled code, so a deep model
compiles as fast as a shallow one.
"""

from __future__ import annotations

import torch
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.models.attention import NAME, attend
from hbt_dist.models.layers import transformer_layers


def compile_layers(backbone: nn.Module, device: torch.device) -> None:
    """Compile every transformer layer in place, for any number of rows and tokens.

    The code is made in the first forwards, with and without graph: seconds to minutes.

    Args:
        backbone: a transformers model.
        device: that it runs on. On CPUs attention over packed rows, a loop, is left as it is.

    Raises:
        UserError: the model has no stack of layers.
    """
    from transformers import AttentionInterface

    layers = transformer_layers(backbone)
    if not layers:
        raise UserError(
            "model.compile", f"{type(backbone).__name__} has no layers to compile", "set it to false"
        )
    if device.type == "cpu":
        AttentionInterface.register(NAME, torch.compiler.disable(attend))
    for layer in layers:
        layer.compile(dynamic=True)
