"""Measure before training starts what a device holds: the largest chunk, and how many graphs.

These are `step.chunk_rows: auto` and `step.kept_tokens: auto`.
"""

from __future__ import annotations

import torch
from torch import nn

from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.chunks import Limits
from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.world import World
from hbt_dist.models.settings import TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.engine import checkpoint_activations
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.memory import added_bytes, free_bytes, release_memory

# Linux gives a process more memory than exists and kills it later: no error to catch, so no trial above this.
CPU_ROWS = 64
# Attention kernels start a block per row in a dimension of the grid that holds 65,535 (pytorch issue 142228).
GPU_ROWS = 32_768
_GRID_TOO_SMALL = "invalid configuration argument"


def check_auto_chunks(run: RunFile, stage: int) -> None:
    """Refuse `chunk_rows: auto` under ZeRO-3: no device holds the whole model that a trial needs.

    Raises:
        UserError: `chunk_rows: auto` with ZeRO stage 3.
    """
    if run.step.chunk_rows == "auto" and stage == 3:
        raise UserError(
            "step.chunk_rows",
            "auto is measured on a whole model before the start, which ZeRO stage 3 avoids",
            "set a number; find the largest that works by trying",
        )


def choose_chunks(
    run: RunFile, deepspeed: ResolvedDeepSpeed, encoder: nn.Module, text: TextSettings, world: World
) -> StepSettings:
    """Return the run's step settings with numbers for `auto`. Collective.

    `kept_tokens: auto` gets a number on GPUs, with mode auto, and where each rank holds the whole model.

    Args:
        deepspeed: of this start.
        encoder: on `world.device`, before the engine is built.
        text: its length limits.

    Raises:
        UserError: not even one row fits.
    """
    measures_graphs = (
        world.device.type == "cuda"
        and (run.step.mode, run.step.kept_tokens) == ("auto", "auto")
        and deepspeed.zero_stage < 3
    )
    if run.step.chunk_rows != "auto" and not measures_graphs:
        return run.step
    if deepspeed.gradient_checkpointing:
        checkpoint_activations(encoder)
    passages = 1 + run.batches.hard_negatives.count
    width = int(getattr(encoder, "width", 0))
    copied = max((cut for cut in run.loss.widths or () if cut < width), default=0)  # by widths, at a time
    embeddings = run.batches.global_batch_size * (1 + passages) * (width + copied)
    texts = 1 + passages + (1 if run.loss.alignment_weight > 0 else 0)  # of a row: the direct step holds all
    parameters = sum(p.numel() for p in encoder.parameters())
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    most_rows = run.batches.global_batch_size // world.size * texts
    max_tokens = max(text.max_question_tokens, text.max_passage_tokens)
    # Embeddings and their gradients in float32, and what the engine will add to the encoder.
    reserve_bytes = 2 * 4 * embeddings + added_bytes(deepspeed, parameters, world.size, trained)
    autocast = deepspeed.low_precision
    step = run.step
    if step.chunk_rows == "auto":
        rows = find_chunk_rows(
            encoder,
            max_tokens=max_tokens,
            most_rows=most_rows,
            world=world,
            reserve_bytes=reserve_bytes,
            autocast=autocast,
        )
        step = step.model_copy(update={"chunk_rows": rows})
    if measures_graphs:
        limits = Limits.of(step, world.device, packs=False)
        chunk_tokens = limits.tokens or limits.rows * max_tokens
        bytes_per_token = graph_bytes(encoder, max_tokens, world.device, autocast=autocast)
        # Gradients, and the loss: scores of row_chunk rows, at most three tensors of them.
        loss_bytes = 3 * 4 * run.loss.row_chunk * run.batches.global_batch_size * passages
        free = free_bytes(world.device) - reserve_bytes - 4 * trained - loss_bytes
        kept = kept_tokens(free, bytes_per_token, chunk_tokens)
        update = {"chunk_tokens": chunk_tokens, "kept_tokens": world.all_min(kept)}
        step = step.model_copy(update=update)
    return step


def graph_bytes(encoder: nn.Module, num_tokens: int, device: torch.device, *, autocast: bool) -> float:
    """Return the bytes that a graph holds for each token, measured on one text of `num_tokens` tokens.

    The memory of 16 such texts less that of 8, so that buffers of a fixed size do not count.
    """

    def held(num_rows: int) -> int:
        input_ids = torch.full((num_rows, num_tokens), 5, device=device)
        mask = torch.ones_like(input_ids)
        before = torch.cuda.memory_allocated(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            embeddings = encoder(input_ids, mask)
        after = torch.cuda.memory_allocated(device)
        del embeddings
        return after - before

    was_training = encoder.training
    encoder.train()
    try:
        held(1)  # the first forward makes workspaces that stay
        difference = held(16) - held(8)
    finally:
        encoder.train(was_training)
        release_memory()
    return difference / (8 * num_tokens)


def kept_tokens(free: float, bytes_per_token: float, chunk_tokens: int) -> int:
    """Return how many tokens' graphs fit into nine tenths of `free` bytes next to a chunk that is encoded."""
    if bytes_per_token <= 0:
        return 0
    return max(0, int(0.9 * free / bytes_per_token) - chunk_tokens)


def find_chunk_rows(
    encoder: nn.Module,
    *,
    max_tokens: int,
    most_rows: int,
    world: World,
    reserve_bytes: int = 0,
    autocast: bool = False,
) -> int:
    """Return the most rows of `max_tokens` each that fit on every rank: all or a power of two.

    Runs forward and backward, and halves the rows while memory is full or a kernel's grid too small. Call it
    before the engine is built: no collective runs inside a trial, and gradients are dropped. It tries at most
    32,768 rows on a GPU and 64 on a CPU.

    Args:
        encoder: on `world.device`, with gradient checkpointing if training has it; tried with dropout.
        max_tokens: longest text.
        most_rows: no chunk needs more; the rank's rows, of all roles together.
        world: the ranks; the smallest of their numbers is used.
        reserve_bytes: held during the trials, for what training adds later: optimizer state (8 bytes per
            parameter and its sharded copies), gathered embeddings and their gradients.
        autocast: try in bf16 autocast, whose activations are at least as large as those of bf16 weights.

    Raises:
        UserError: on all ranks: not even one row fits on one of them.
    """
    rows = min(most_rows, GPU_ROWS if world.device.type == "cuda" else CPU_ROWS)

    def fits(num_rows: int) -> bool:
        try:
            ballast = torch.empty(reserve_bytes, dtype=torch.uint8, device=world.device)
            input_ids = torch.full((num_rows, max_tokens), 5, device=world.device)
            with torch.autocast(world.device.type, torch.bfloat16, enabled=autocast):
                embeddings = encoder(input_ids, torch.ones_like(input_ids))
            embeddings.float().sum().backward()
            del ballast
        except RuntimeError as error:
            if not (is_out_of_memory(error) or _GRID_TOO_SMALL in str(error)):
                raise
            return False
        return True

    was_training = encoder.training
    encoder.train()
    try:
        while rows > 0 and not fits(rows):
            encoder.zero_grad(set_to_none=True)
            release_memory()
            rows = (1 << (rows - 1).bit_length()) >> 1  # the next power of two below, 0 below 1
    finally:
        encoder.zero_grad(set_to_none=True)
        encoder.train(was_training)
        release_memory()  # NCCL takes its buffers from the device
    fitting = world.all_min(rows)
    if fitting == 0:
        raise UserError(
            "step.chunk_rows",
            f"auto does not fit one text of {max_tokens} tokens next to "
            f"{reserve_bytes / 1024**3:.1f} GiB of states and buffers",
            "use a DeepSpeed configuration that needs less memory, set\n"
            "deepspeed.gradient_checkpointing: true, or lower model.text.max_passage_tokens",
        )
    return fitting
