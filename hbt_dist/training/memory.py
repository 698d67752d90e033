"""Memory of weights, gradients and optimizer states on each device, whatever the batch.

Bytes per parameter, W devices; float32 has 4, bf16 2, AdamW two moments of 4 each. Why DeepSpeed holds what
it holds stands in deepspeed_configs/README.md.

    plain, ZeRO 0     16             weight, gradient, two moments
    ZeRO 1            8 + 12 / W     weight, gradient; shared out: a second copy of the weight, moments
    ZeRO 2            8 + 12 / W     while chunks add up; 4 + 16 / W after a reduction per chunk
    ZeRO 1 in fp16    4 + 16 / W     weight, gradient in fp16; shared out in float32 as in the next line
    ZeRO 2 in bf16    2 + 16 / W     weight in bf16; shared out in float32: gradient, master copy, moments
    ZeRO 3            20 / W         and the layers in use
    ZeRO 3 offloaded  0              the layers in use; the rest is in host memory

Estimates: buckets (up to 1.6 GB, `bucket_bytes`), activations, the framework's own context (about 1 GB) come
on top. At the start each process holds the model in host memory too, 4 bytes per parameter.
"""

from __future__ import annotations

from typing import Any

import torch

_BUCKET = 500_000_000  # elements, DeepSpeed's default


def state_bytes(config: dict[str, Any] | None, parameters: int, workers: int) -> float:
    """Bytes of states on each device.

    Args:
        config: of DeepSpeed, as a dictionary; None: plain PyTorch.
        parameters: of the model.
        workers: W, the devices that share it.
    """
    zero = {} if config is None else config.get("zero_optimization", {})
    bf16 = config is not None and config.get("bf16", {}).get("enabled", False)
    stage = int(zero.get("stage", 0))
    if stage == 0:
        return 16.0 * parameters
    if stage == 3:
        offloaded = [zero.get(f"offload_{what}", {}).get("device", "none") for what in ("optimizer", "param")]
        kept = (0 if offloaded[0] == "cpu" else 16) + (0 if offloaded[1] == "cpu" else 4)
        return kept * parameters / workers
    if config is not None and config.get("fp16", {}).get("enabled", False):
        return ((4 if stage == 1 else 2) + 16 / workers) * parameters
    if bf16:
        return (2 + 16 / workers) * parameters
    return (8 + 12 / workers) * parameters


def bucket_bytes(config: dict[str, Any] | None, parameters: int) -> int:
    """Bytes of DeepSpeed's communication buffers on each device, for gradients and for weights."""
    zero = {} if config is None else config.get("zero_optimization", {})
    if not zero.get("stage", 0):
        return 0
    reduced = int(zero.get("reduce_bucket_size", _BUCKET)) * (2 if zero.get("overlap_comm") else 1)
    gathered = min(int(zero.get("allgather_bucket_size", _BUCKET)), parameters)
    return 4 * (reduced + gathered)


def added_bytes(config: dict[str, Any] | None, parameters: int, workers: int) -> int:
    """What training holds beside float32 weights and their gradients: the rest of the states, and buckets."""
    states = state_bytes(config, parameters, workers) - 8.0 * parameters
    return max(0, int(states)) + bucket_bytes(config, parameters)


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that torch can still give out: free ones, and those it has reserved and not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
