"""Estimate the memory of weights, gradients and optimizer states on each device.

Bytes per parameter, W devices; float32 has 4, bf16 2, AdamW two moments of 4 each.
deepspeed_configs/README.md explains what DeepSpeed holds.

    plain, ZeRO 0     16             weight, gradient, two moments
    ZeRO 1            8 + 12 / W     weight, gradient; shared out: a second copy of the weight, moments
    ZeRO 2            8 + 12 / W     while chunks add up; 4 + 16 / W after a reduction per chunk
    ZeRO 1 in fp16    4 + 16 / W     weight, gradient in fp16; shared out in float32 as in the next line
    ZeRO 2 in bf16    2 + 16 / W     weight in bf16; shared out in float32: gradient, master copy, moments
    ZeRO 3            20 / W         weight, and in float32 as in the line before; and the layers in use;
                                     4 more while chunks add up, if a quarter of the free memory suffices
    ZeRO 3 in bf16    18 / W         the same with the weight in bf16
    ZeRO 3 offloaded  0              the layers in use; the rest is in host memory

A frozen parameter has its weight only. ZeRO-3 also keeps small weights whole on every device.
tests/training/test_memory.py counts the bytes of real engines.

Estimates: buckets (up to 1.6 GB, `bucket_bytes`), activations (`hbt_dist.models.activations`), the
framework's own context (about 1 GB) come on top. At the start each process holds the model in host memory.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed

# DeepSpeed's defaults, in elements.
_BUCKET = 500_000_000
_SMALL = 100_000
_LIVE = 1_000_000_000


@dataclass(frozen=True)
class States:
    """Bytes of states on each device."""

    weights: float
    gradients: float
    masters: float  # float32 copies of the trained weights
    moments: float

    @property
    def total(self) -> float:
        """Bytes of all."""
        return self.weights + self.gradients + self.masters + self.moments


def weight_bytes(deepspeed: ResolvedDeepSpeed) -> int:
    """Return the bytes of one weight in training."""
    return 2 if deepspeed.enables("bf16", "fp16") else 4


def count_states(
    deepspeed: ResolvedDeepSpeed, parameters: int, workers: int, trained: int | None = None
) -> States:
    """Return the bytes of states on each device.

    Args:
        deepspeed: how the run trains.
        parameters: of the model.
        workers: W, the devices that share it.
        trained: parameters that are not frozen; default: all.
    """
    trained = parameters if trained is None else trained
    stage, weight = deepspeed.zero_stage, weight_bytes(deepspeed)
    part, share = trained / workers, parameters / workers
    if stage == 0:
        return States(4.0 * parameters, 4.0 * trained, 0.0, 8.0 * trained)
    # Stage 3 holds parts only. Gradients of stages 1 and 2 in float32 are whole while chunks add up.
    weights = float(weight * (share if stage == 3 else parameters))
    if stage == 3 or (stage == 2 and weight == 2):
        gradients = 4 * part
    elif weight == 4:
        gradients = 4.0 * trained
    elif (deepspeed.config or {}).get("data_types", {}).get("grad_accum_dtype") == "fp32":
        gradients = (4.0 + weight) * trained  # the sum in float32, and a chunk's gradients
    else:
        gradients = weight * trained + 4 * part
    if deepspeed.offloads("param"):
        weights = 0.0
    if deepspeed.offloads("optimizer"):
        return States(weights, gradients if stage < 3 and weight == 4 else 0.0, 0.0, 0.0)
    return States(weights, gradients, 4 * part, 8 * part)


def small_weight_bytes(deepspeed: ResolvedDeepSpeed, sizes: Iterable[int]) -> int:
    """Return the bytes of weights that ZeRO-3 keeps whole on each device, as they are small.

    Args:
        deepspeed: how the run trains.
        sizes: elements of each parameter.
    """
    if deepspeed.zero_stage != 3:
        return 0
    threshold = int(deepspeed.zero.get("stage3_param_persistence_threshold", _SMALL))
    return weight_bytes(deepspeed) * sum(size for size in sizes if size <= threshold)


def gathered_bytes(deepspeed: ResolvedDeepSpeed, parameters: int) -> int:
    """Return the bytes of whole weights that ZeRO-3 gathers for the layers in use."""
    if deepspeed.zero_stage != 3:
        return 0
    most = int(deepspeed.zero.get("stage3_max_live_parameters", _LIVE))
    return weight_bytes(deepspeed) * min(most, parameters)


def bucket_bytes(deepspeed: ResolvedDeepSpeed, trained: int) -> int:
    """Return the bytes of DeepSpeed's communication buffers on each device, for gradients and for weights.

    Args:
        deepspeed: how the run trains.
        trained: parameters that are not frozen.
    """
    zero, stage = deepspeed.zero, deepspeed.zero_stage
    if not stage:
        return 0
    reduced = int(zero.get("reduce_bucket_size", _BUCKET)) * (2 if zero.get("overlap_comm") else 1)
    gathered = 0 if stage == 3 else min(int(zero.get("allgather_bucket_size", _BUCKET)), trained)
    return 4 * (reduced + gathered)


def added_bytes(deepspeed: ResolvedDeepSpeed, parameters: int, workers: int, trained: int) -> int:
    """Return the bytes of training in addition to float32 weights and gradients: states and buckets."""
    states = count_states(deepspeed, parameters, workers, trained).total - 4.0 * (parameters + trained)
    return max(0, int(states)) + bucket_bytes(deepspeed, trained)


def release_memory() -> None:
    """Return unused memory to the device, from which NCCL and other processes take theirs."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch can still allocate: free bytes, and reserved bytes that are not in use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
