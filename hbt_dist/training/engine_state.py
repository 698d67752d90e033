"""The state of an engine on disk, and the trained weights out of it, for every ZeRO stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hbt_dist.training.engine import DeepSpeedEngine, Engine, PlainEngine

TAG = "state"
PLAIN_FILE = "plain.pt"


def save_engine(engine: Engine, folder: Path) -> None:
    """Write weights and optimizer state into `folder`; every rank writes its own part. Collective."""
    if isinstance(engine, DeepSpeedEngine):
        engine.deepspeed.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    elif isinstance(engine, PlainEngine) and engine.world.rank == 0:
        state = {"model": engine.model.state_dict(), "optimizer": engine.optimizer.state_dict()}
        torch.save(state, folder / PLAIN_FILE)


def load_engine(engine: Engine, folder: Path) -> None:
    """Read back what `save_engine` wrote with the same number of processes. Collective.

    The files are pickles: only for folders whose checksums were verified.
    """
    if isinstance(engine, DeepSpeedEngine):
        engine.deepspeed.load_checkpoint(str(folder), tag=TAG)
    elif isinstance(engine, PlainEngine):
        state = torch.load(folder / PLAIN_FILE, map_location=engine.world.device, weights_only=True)
        engine.model.load_state_dict(state["model"])
        engine.optimizer.load_state_dict(state["optimizer"])


def gather_weights(engine: Engine) -> dict[str, Tensor] | None:
    """The whole encoder's weights on rank 0 (float32, CPU); None elsewhere. Collective.

    Under ZeRO-3 parameters are fetched one at a time, so that no other rank ever holds the whole model.
    """
    encoder = engine.model.encoder
    keep = engine.world.rank == 0
    weights: dict[str, Tensor] = {}
    if isinstance(engine, DeepSpeedEngine) and engine.zero_stage == 3:
        import deepspeed

        for name, parameter in encoder.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if keep:
                    weights[name] = _copy(parameter.data)
        if keep:
            weights |= {name: _copy(buffer) for name, buffer in _saved_buffers(encoder).items()}
    elif keep:
        weights = {name: _copy(value) for name, value in encoder.state_dict().items()}
    return weights if keep else None


def _saved_buffers(module: torch.nn.Module) -> dict[str, Tensor]:
    buffers = dict(module.named_buffers())
    return {name: buffers[name] for name in module.state_dict() if name in buffers}


def _copy(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value.clone()


def split_weights(weights: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of an `Encoder` as (backbone's, dense layers')."""
    backbone = {
        name.removeprefix("backbone."): w for name, w in weights.items() if name.startswith("backbone.")
    }
    dense = {name.removeprefix("dense."): w for name, w in weights.items() if name.startswith("dense.")}
    return backbone, dense


def describe(engine: Engine) -> dict[str, Any]:
    """What a checkpoint's manifest records of the engine."""
    return {
        "engine": "deepspeed" if isinstance(engine, DeepSpeedEngine) else "plain",
        "zero_stage": engine.zero_stage,
        "world_size": engine.world.size,
    }
