"""Estimate the memory of weights, gradients and optimizer states on each device.

Bytes per parameter, W devices; float32 has 4, bf16 2, AdamW two moments of 4 each.
deepspeed_configs/README.md explains what DeepSpeed holds.

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

import gc

import torch

from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed

_BUCKET = 500_000_000  # elements, DeepSpeed's default


def state_bytes(deepspeed: ResolvedDeepSpeed, parameters: int, workers: int) -> float:
    """Return the bytes of states on each device.

    Args:
        deepspeed: how the run trains.
        parameters: of the model.
        workers: W, the devices that share it.
    """
    zero, stage = deepspeed.zero, deepspeed.zero_stage
    if stage == 0:
        return 16.0 * parameters
    if stage == 3:
        offloaded = [zero.get(f"offload_{what}", {}).get("device", "none") for what in ("optimizer", "param")]
        kept = (0 if offloaded[0] == "cpu" else 16) + (0 if offloaded[1] == "cpu" else 4)
        return kept * parameters / workers
    if deepspeed.enables("fp16"):
        return ((4 if stage == 1 else 2) + 16 / workers) * parameters
    if deepspeed.enables("bf16"):
        return (2 + 16 / workers) * parameters
    return (8 + 12 / workers) * parameters


def bucket_bytes(deepspeed: ResolvedDeepSpeed, parameters: int) -> int:
    """Return the bytes of DeepSpeed's communication buffers on each device, for gradients and for weights."""
    zero = deepspeed.zero
    if not deepspeed.zero_stage:
        return 0
    reduced = int(zero.get("reduce_bucket_size", _BUCKET)) * (2 if zero.get("overlap_comm") else 1)
    gathered = min(int(zero.get("allgather_bucket_size", _BUCKET)), parameters)
    return 4 * (reduced + gathered)


def added_bytes(deepspeed: ResolvedDeepSpeed, parameters: int, workers: int) -> int:
    """Return the bytes of training in addition to float32 weights and their gradients: states and buckets."""
    states = state_bytes(deepspeed, parameters, workers) - 8.0 * parameters
    return max(0, int(states)) + bucket_bytes(deepspeed, parameters)


def release_memory() -> None:
    """Return unused memory to the device, from which NCCL and other processes take theirs."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch can still allocate: free bytes, and reserved bytes that are not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
