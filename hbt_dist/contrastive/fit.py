"""Find the largest chunk that a device holds, before training starts."""

from __future__ import annotations

import gc

import torch
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.world import World

# Linux gives a process more memory than there is and kills it later: nothing to catch, so nothing to try.
CPU_ROWS = 64


def resolve_chunk_rows(
    step: StepSettings,
    encoder: nn.Module,
    *,
    max_tokens: int,
    most_rows: int,
    world: World,
    reserve_bytes: int,
    autocast: bool = False,
) -> StepSettings:
    """Replace ``chunk_rows: auto`` by a number, the same on every rank; other settings pass through."""
    if step.chunk_rows != "auto":
        return step
    rows = find_chunk_rows(
        encoder,
        max_tokens=max_tokens,
        most_rows=most_rows,
        world=world,
        reserve_bytes=reserve_bytes,
        autocast=autocast,
    )
    return step.model_copy(update={"chunk_rows": rows})


def find_chunk_rows(
    encoder: nn.Module,
    *,
    max_tokens: int,
    most_rows: int,
    world: World,
    reserve_bytes: int = 0,
    autocast: bool = False,
) -> int:
    """The most rows of `max_tokens` each whose forward and backward fit on every rank: all or a power of two.

    Tries by running out of memory and halving (accelerate's `find_executable_batch_size`). Call it before the
    engine is built: no collective runs inside a trial, and gradients are thrown away. On a CPU it tries
    nothing above 64 rows.

    Args:
        encoder: on `world.device`, with gradient checkpointing if training has it; tried with dropout.
        max_tokens: longest text.
        most_rows: no chunk needs more; the rank's rows, of all roles together.
        world: the ranks; the smallest of their numbers counts.
        reserve_bytes: held during the trials, for what training adds later: optimizer state (8 bytes per
            parameter and its sharded copies), gathered embeddings and their gradients.
        autocast: try in bf16 autocast, whose activations are no smaller than those of bf16 weights.

    Raises:
        UserError: on all ranks: on one of them not even one row fits.
    """
    from accelerate.utils import find_executable_batch_size

    rows = most_rows if world.device.type == "cuda" else min(most_rows, CPU_ROWS)

    def halve() -> int:
        nonlocal rows
        rows = (1 << (rows - 1).bit_length()) >> 1  # the next power of two below, 0 below 1
        encoder.zero_grad(set_to_none=True)
        return rows

    def trial(num_rows: int) -> int:
        ballast = torch.empty(reserve_bytes, dtype=torch.uint8, device=world.device)
        input_ids = torch.full((num_rows, max_tokens), 5, device=world.device)
        with torch.autocast(world.device.type, torch.bfloat16, enabled=autocast):
            embeddings = encoder(input_ids, torch.ones_like(input_ids))
        embeddings.float().sum().backward()
        del ballast
        return num_rows

    search = find_executable_batch_size(trial, starting_batch_size=rows, reduce_batch_size_fn=halve)
    was_training = encoder.training
    encoder.train()
    try:
        found = int(search())
    except RuntimeError:
        if rows > 0:
            raise
        found = 0
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.train(was_training)
        _give_back(world.device)
    found = world.all_min(found)
    if found == 0:
        raise UserError(
            "step.chunk_rows",
            f"auto finds no room for one text of {max_tokens} tokens beside "
            f"{reserve_bytes / 1024**3:.1f} GiB of states and buffers",
            "take a DeepSpeed configuration that needs less memory, or deepspeed.gradient_checkpointing, or\n"
            "lower model.text.max_passage_tokens",
        )
    return found


def _give_back(device: torch.device) -> None:
    """Return what the trials have reserved: NCCL takes memory from the device, not from torch's reserve."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
