"""What a person hears when a GPU's memory is full: how full, and which settings need less."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hbt_dist.common.errors import OneRankError
from hbt_dist.contrastive.world import World


@contextmanager
def full_memory_explained(world: World, chunk_rows: int | str) -> Iterator[None]:
    """Turn torch's error of a full GPU into one that says what to set; a restart would meet it again.

    Args:
        world: this rank and its device.
        chunk_rows: `step.chunk_rows` of the run file.

    Raises:
        OneRankError: this rank's GPU is full. The others may have room.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise OneRankError(
            f"rank {world.rank} on {socket.gethostname()}",
            f"the memory of {world.device} is full{_filled(world.device)}: {_first_sentences(error)}",
            f"lower step.chunk_rows ({chunk_rows} now; auto: the largest that fits) or step.chunk_tokens;\n"
            "deepspeed.gradient_checkpointing: true, a higher ZeRO stage, shorter texts (model.text),\n"
            "and more workers need less, too. The same command continues from the last checkpoint",
        ) from error


def _filled(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    peak, total = (
        torch.cuda.max_memory_allocated(device),
        torch.cuda.get_device_properties(device).total_memory,
    )
    return f" ({peak / 2**30:.1f} of {total / 2**30:.1f} GiB held by tensors at most)"


def _first_sentences(error: Exception) -> str:
    text = " ".join(str(error).split())
    return ". ".join(text.split(". ")[:2]).rstrip(".") or type(error).__name__
