"""Whether a device computes in the precision that a configuration asks for."""

from __future__ import annotations

from typing import Any

import torch

from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, load_deepspeed_config


def emulated_bf16(settings: DeepSpeedSettings, device: torch.device) -> tuple[str, str] | None:
    """(What is wrong, what to do) where training in bf16 would be emulated; None: it would not.

    torch's autocast takes such a GPU (below compute capability 8) without a word: `is_bf16_supported` counts
    emulation unless it is told not to.

    Args:
        settings: how the run trains.
        device: of this process, the current one if it is a GPU.
    """
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return None
    if settings.config is None:
        asked, remedy = settings.precision == "bf16_autocast", "set deepspeed.precision: fp32"
    else:
        config = load_deepspeed_config(settings.config, gradient_clipping=1.0)
        asked, remedy = _in_bf16(config), "set deepspeed.config: zero1_fp16, or cpu for float32"
    found = f"{torch.cuda.get_device_name(device)} has no bf16 and emulates it, slowly"
    return (found, remedy) if asked else None


def _in_bf16(config: dict[str, Any]) -> bool:
    return any(config.get(name, {}).get("enabled") for name in ("bf16", "torch_autocast"))
