"""Partition a model over the ranks for ZeRO-3 before any device holds all of it.

`deepspeed.initialize` moves a whole model to each device before it partitions it: 28 GB in float32 for 7
billion parameters, which ZeRO-3 avoids. It does not move what `deepspeed.zero.Init` has partitioned.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed


def move_unless_partitioned(
    encoder: nn.Module, deepspeed: ResolvedDeepSpeed, device: torch.device
) -> nn.Module:
    """Return the encoder on the device that it trains on, or where it is if ZeRO-3 will partition it."""
    return encoder if deepspeed.zero_stage == 3 else encoder.to(device)


def partition(model: nn.Module, deepspeed: ResolvedDeepSpeed, device: torch.device) -> None:
    """Partition a model, one parameter after the other; rank 0's values are used. Collective.

    Each device holds one whole parameter at a time, and its share of those before. Parameters take the
    precision that they train in first, as `deepspeed.initialize` would have it; buffers keep theirs and go to
    the device whole.

    Args:
        model: in host memory or on `device`; it is changed in place and keeps its parameter objects.
        deepspeed: ZeRO stage 3.
        device: of this rank, after `prepare_deepspeed`.
    """
    from deepspeed import zero

    dtype = (
        torch.bfloat16 if deepspeed.enables("bf16") else torch.float16 if deepspeed.enables("fp16") else None
    )
    for parameter in model.parameters():
        if dtype is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    # DeepSpeed does not move buffers of a partitioned model. In place: models keep second names of buffers.
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    zero.Init(module=model, config_dict_or_path=copy.deepcopy(deepspeed.config))
