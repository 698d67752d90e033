"""Find the torch device of a name, prepare GPUs for encoders, and move tensors without waiting."""

from __future__ import annotations

import torch
from torch import Tensor

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.processors import num_processors

WIDTH_STEP = 16


def torch_device(device: str, key: str = "device") -> torch.device:
    """Return the torch device of a name, prepared; `auto` is the GPU if this process has one, else the CPU.

    Args:
        device: its name.
        key: the setting that named it, for messages.

    Raises:
        UserError: torch has no such device on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        result = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        remedy = "set it to auto, cpu or cuda"
        raise UserError(f"{key} {device!r}", first_line(error), remedy) from error
    prepare_device(result)
    return result


def prepare_device(device: torch.device) -> None:
    """Limit CPU threads to the processors, or switch cuDNN's attention off for a GPU.

    torch does not know the CPU quota of a container. From torch 2.11 on cuDNN's attention comes first on
    Hopper GPUs and plans for every new shape of a batch: 0.4 s for a forward pass and 0.6 s for a backward
    pass were reported (FunASR issue 3704). Batches of texts have hundreds of shapes.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    else:
        torch.set_num_threads(min(torch.get_num_threads(), num_processors()))


def token_width(longest: int, limit: int, device: torch.device) -> int:
    """Return the width of a batch in tokens: on GPUs a multiple of 16, so that few shapes occur.

    Args:
        longest: tokens of the longest text of the batch.
        limit: tokens that a text may have; the model may have no position beyond.
        device: of the encoder. CPUs pay for each token, so the width is that of the longest text.
    """
    if device.type == "cpu":
        return longest
    return max(longest, min(limit, -(-longest // WIDTH_STEP) * WIDTH_STEP))


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting; a copy from pageable memory would wait for all earlier work."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
