"""Find the largest chunk that a device holds, before training starts."""

from __future__ import annotations

import torch
from torch import nn

from hbt_dist.contrastive.config import StepSettings
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
) -> StepSettings:
    """Replace ``chunk_rows: auto`` by a number, the same on every rank; other settings pass through."""
    if step.chunk_rows != "auto":
        return step
    rows = find_chunk_rows(
        encoder, max_tokens=max_tokens, most_rows=most_rows, world=world, reserve_bytes=reserve_bytes
    )
    return step.model_copy(update={"chunk_rows": rows})


def find_chunk_rows(
    encoder: nn.Module, *, max_tokens: int, most_rows: int, world: World, reserve_bytes: int = 0
) -> int:
    """The largest power of two of rows, each `max_tokens` long, whose forward and backward fit on every rank.

    Tries by running out of memory and halving (accelerate's `find_executable_batch_size`). Call it before the
    engine is built: no collective runs inside a trial, and gradients are thrown away. On a CPU it tries
    nothing above 64 rows.

    Args:
        encoder: on `world.device`, in the precision of training or a higher one.
        max_tokens: longest text.
        most_rows: no chunk needs more; the rank's rows.
        world: the ranks; the smallest of their numbers counts.
        reserve_bytes: held during the trials, for what training adds later: optimizer state (8 bytes per
            parameter and its sharded copies), gathered embeddings and their gradients.
    """
    from accelerate.utils import find_executable_batch_size

    limit = most_rows if world.device.type == "cuda" else min(most_rows, CPU_ROWS)
    rows = 1 << (limit.bit_length() - 1)

    def halve() -> int:
        nonlocal rows
        rows //= 2
        encoder.zero_grad(set_to_none=True)
        return rows

    def trial(num_rows: int) -> int:
        ballast = torch.empty(reserve_bytes, dtype=torch.uint8, device=world.device)
        input_ids = torch.full((num_rows, max_tokens), 5, device=world.device)
        encoder(input_ids, torch.ones_like(input_ids)).float().sum().backward()
        del ballast
        return num_rows

    search = find_executable_batch_size(trial, starting_batch_size=rows, reduce_batch_size_fn=halve)
    try:
        found = int(search())
    finally:
        encoder.zero_grad(set_to_none=True)
    return world.all_min(found)
