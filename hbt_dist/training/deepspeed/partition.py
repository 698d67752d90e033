"""ZeRO-3 from the start: a model is cut over the ranks before any device has held all of it.

`deepspeed.initialize` moves a whole model to each device before it cuts it: 28 GB in float32 for 7 billion
parameters, which ZeRO-3 is there to avoid. What `deepspeed.zero.Init` has cut already is left where it lies.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, load_deepspeed_config


def placed(encoder: nn.Module, deepspeed: DeepSpeedSettings, device: torch.device) -> nn.Module:
    """The encoder on the device that it trains on; where ZeRO-3 will cut it, it stays where it is."""
    if deepspeed.config is not None:
        config = load_deepspeed_config(deepspeed.config, gradient_clipping=1.0, device_type=device.type)
        if config["zero_optimization"].get("stage", 0) == 3:
            return encoder
    return encoder.to(device)


def partition(model: nn.Module, config: dict[str, Any], device: torch.device) -> None:
    """Cut a model over the ranks, one parameter after the other; rank 0's values count. Collective.

    Each device holds one whole parameter at a time beside its share of those before. Parameters take the
    precision that they train in first, as `deepspeed.initialize` would have it; buffers keep theirs and go to
    the device whole.

    Args:
        model: in host memory or on `device`; it is changed in place and keeps its parameter objects.
        config: of DeepSpeed, stage 3, as `load_deepspeed_config` returns it.
        device: of this rank, which DeepSpeed has been told (`prepare_deepspeed`).
    """
    import deepspeed

    dtype = _trained_in(config)
    for parameter in model.parameters():
        if dtype is not None and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    # DeepSpeed moves no buffer of a model that is cut already. In place: models keep second names of theirs.
    for buffer in model.buffers():
        buffer.data = buffer.data.to(device)
    deepspeed.zero.Init(module=model, config_dict_or_path=copy.deepcopy(config))


def _trained_in(config: dict[str, Any]) -> torch.dtype | None:
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        if config.get(name, {}).get("enabled"):
            return dtype
    return None
