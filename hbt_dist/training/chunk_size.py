"""`step.chunk_rows: auto`, measured on the model as it trains: dropout, checkpointing, precision, memory."""

from __future__ import annotations

from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.fit import resolve_chunk_rows
from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.world import World
from hbt_dist.models.settings import TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.engine import checkpoint_activations
from hbt_dist.training.deepspeed.settings import load_deepspeed_config, uses_low_precision
from hbt_dist.training.memory import added_bytes


def check_auto_chunks(run: RunFile, stage: int) -> None:
    """Refuse to measure what is only there in pieces: under ZeRO-3 no device holds the model.

    Raises:
        UserError: `chunk_rows: auto` with ZeRO stage 3.
    """
    if run.step.chunk_rows == "auto" and stage == 3:
        raise UserError(
            "step.chunk_rows",
            "auto is measured on a whole model before the start, which ZeRO stage 3 is there to avoid",
            "give a number; the largest that works is found by trying",
        )


def choose_chunk_rows(run: RunFile, encoder: nn.Module, text: TextSettings, world: World) -> StepSettings:
    """The run's step settings with a number for `chunk_rows: auto`. Collective.

    Args:
        encoder: on `world.device`, before the engine is built.
        text: its length limits.

    Raises:
        UserError: not even one row fits.
    """
    if run.step.chunk_rows != "auto":
        return run.step
    settings, config = run.deepspeed, None
    if settings.config is not None:
        config = load_deepspeed_config(
            settings.config,
            gradient_clipping=run.optimizer.gradient_clipping,
            device_type=world.device.type,
        )
    if settings.gradient_checkpointing:
        checkpoint_activations(encoder)
    passages = 1 + run.batches.hard_negatives.count
    embeddings = run.batches.global_batch_size * (1 + passages) * int(getattr(encoder, "width", 0))
    rows_each = 1 + passages + (1 if run.loss.alignment_weight > 0 else 0)  # all of them: the direct step
    parameters = sum(p.numel() for p in encoder.parameters())
    return resolve_chunk_rows(
        run.step,
        encoder,
        max_tokens=max(text.max_question_tokens, text.max_passage_tokens),
        most_rows=run.batches.global_batch_size // world.size * rows_each,
        world=world,
        # Embeddings and their gradients in float32, and what the engine will add to the encoder.
        reserve_bytes=2 * 4 * embeddings + added_bytes(config, parameters, world.size),
        autocast=settings.precision != "fp32" if config is None else uses_low_precision(config),
    )
