"""Tell full memory from other errors; libraries report it in different words."""

from __future__ import annotations

import torch

#: torch and the driver (NCCL quotes it); cuBLAS and cuDNN; NCCL's own buffers; torch on a CPU.
_WORDS = ("out of memory", "_STATUS_ALLOC_FAILED", "Failed to CUDA calloc", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of the device is full."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
