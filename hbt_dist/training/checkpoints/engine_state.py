"""The state of an engine on disk, and the trained weights out of it, for every ZeRO stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hbt_dist.training.deepspeed.engine import DeepSpeedEngine, Engine, PlainEngine

TAG = "state"
PLAIN_FILE = "plain.pt"


def save_engine(engine: Engine, folder: Path) -> None:
    """Write weights and optimizer state into `folder`; every rank writes its own part. Collective.

    Raises:
        OSError, RuntimeError: this rank could not write; the others return, nobody is left waiting.
    """
    if isinstance(engine, DeepSpeedEngine):
        with _failing_late(engine.deepspeed):
            engine.deepspeed.save_checkpoint(str(folder), tag=TAG, save_latest=False)
    elif isinstance(engine, PlainEngine) and engine.world.rank == 0:
        state = {"model": engine.model.state_dict(), "optimizer": engine.optimizer.state_dict()}
        torch.save(state, folder / PLAIN_FILE)


@contextlib.contextmanager
def _failing_late(deepspeed: Any) -> Iterator[None]:
    """Raise a failed write after DeepSpeed's last barrier, where the other ranks would wait for ever.

    Also leaves out the Python scripts that DeepSpeed puts beside its files: `hbt-dist export` reads them.
    """
    writer = deepspeed.checkpoint_engine
    save, problems = writer.save, list[OSError | RuntimeError]()

    def save_or_remember(*args: Any, **kwargs: Any) -> None:
        try:
            save(*args, **kwargs)
        except (OSError, RuntimeError) as error:
            problems.append(error)

    writer.save, deepspeed._copy_recovery_script = save_or_remember, lambda _: None
    try:
        yield
    finally:
        del writer.save, deepspeed._copy_recovery_script
    if problems:
        raise problems[0]


def load_engine(engine: Engine, folder: Path, *, universal: bool = False) -> None:
    """Read back what `save_engine` wrote. Collective.

    With ZeRO the number of processes must be the same, unless `folder` is a universal one
    (`hbt_dist.training.checkpoints.resharding`). The files are pickles: only for folders whose checksums
    were verified.
    """
    if isinstance(engine, DeepSpeedEngine):
        # Set while loading only: DeepSpeed has been reported to save less while it is on (its issue 7546).
        settings = engine.deepspeed._config
        before, settings.load_universal_checkpoint = settings.load_universal_checkpoint, universal
        try:
            with _mended_loading(engine.deepspeed.optimizer) if universal else contextlib.nullcontext():
                engine.deepspeed.load_checkpoint(str(folder), tag=TAG)
        finally:
            settings.load_universal_checkpoint = before
        _keep_fused(engine.deepspeed.optimizer)
    elif isinstance(engine, PlainEngine):
        state = torch.load(folder / PLAIN_FILE, map_location=engine.world.device, weights_only=True)
        engine.model.load_state_dict(state["model"])
        engine.optimizer.load_state_dict(state["optimizer"])
        _keep_fused(engine.optimizer)


def _keep_fused(optimizer: Any) -> None:
    """Loading brings back the settings of who saved, and a universal checkpoint leaves step counters on the
    CPU, where the fused update of another device does not look for them.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    for group in optimizer.param_groups:
        group["fused"] = True
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device, torch.float32)


@contextlib.contextmanager
def _mended_loading(zero_optimizer: Any) -> Iterator[None]:
    with _own_hyperparameters(zero_optimizer), _groups_of_padding(zero_optimizer):
        yield


class _Padding:
    """What stands for a parameter where this rank's share of a group is padding: nothing to read."""

    def __init__(self) -> None:
        self._hp_mapping = self

    def load_hp_checkpoint_state(self, *_: Any, **__: Any) -> None:
        """No step counter."""

    def get_optim_state_keys(self) -> list[str]:
        """No states."""
        return []


@contextlib.contextmanager
def _groups_of_padding(zero_optimizer: Any) -> Iterator[None]:
    """Let ranks load a universal checkpoint under ZeRO 1 and 2 that hold nothing of a parameter group.

    A learned temperature is a group of one element, on one rank. DeepSpeed 0.19 takes the step counter of the
    first parameter that a rank holds of each group, and fails with an IndexError where there is none.
    """
    name = "load_hp_checkpoint_state_from_checkpoint_dir"
    load = getattr(zero_optimizer, name, None)
    if load is None:
        yield
        return

    def load_with_padding(groups_name: str, folder: str) -> None:
        empty = [
            group
            for group in getattr(zero_optimizer, groups_name)
            if all(parameter._hp_mapping is None for parameter in group)
        ]
        names = zero_optimizer.param_names
        for group in empty:
            group.append(_Padding())
            names[group[-1]] = "padding"
        try:
            load(groups_name, folder)
        finally:
            for group in empty:
                del names[group.pop()]

    setattr(zero_optimizer, name, load_with_padding)
    try:
        yield
    finally:
        delattr(zero_optimizer, name)


@contextlib.contextmanager
def _own_hyperparameters(zero_optimizer: Any) -> Iterator[None]:
    """Undo what DeepSpeed 0.19 does to the optimizer while it loads a universal checkpoint under ZeRO-3.

    It gives every parameter group the hyperparameters of the first one, weight decay among them, and all
    shards one and the same step counter, which then counts several times per step. Nothing is raised; the
    run goes on with other updates (tests/training/test_resume.py, test_other_numbers_of_workers).
    """
    optimizer = zero_optimizer.optimizer
    groups = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    yield
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        group.update(own)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def weights_are_finite(engine: Engine) -> bool:
    """Whether all trained weights, over all ranks, are finite numbers. Collective."""
    shards = (getattr(p, "ds_tensor", p).detach() for p in engine.model.parameters() if p.requires_grad)
    return bool(engine.world.all_min(int(all(bool(torch.isfinite(shard).all()) for shard in shards))))


def gather_weights(engine: Engine) -> dict[str, Tensor] | None:
    """The whole encoder's weights on rank 0 (float32, CPU); None elsewhere. Collective.

    Under ZeRO those that the optimizer moves: with bf16 or fp16 the module holds a rounded copy. They are
    fetched one at a time, so that no other rank ever holds the whole model.
    """
    encoder = engine.model.encoder
    keep = engine.world.rank == 0
    weights: dict[str, Tensor] = {}
    if isinstance(engine, DeepSpeedEngine) and engine.zero_stage > 0:
        for name, parameter in encoder.named_parameters(remove_duplicate=False):
            with _whole(parameter) as value:
                if keep:
                    weights[name] = _copy(value)
        if keep:
            weights |= {name: _copy(buffer) for name, buffer in _saved_buffers(encoder).items()}
    elif keep:
        weights = {name: _copy(value) for name, value in encoder.state_dict().items()}
    return weights if keep else None


@contextlib.contextmanager
def _whole(parameter: torch.nn.Parameter) -> Iterator[Tensor]:
    """A parameter under ZeRO, all of it, in float32 where the optimizer holds it so. Collective."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    trained = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
    if trained is not None:
        yield trained
    elif hasattr(parameter, "ds_id"):  # frozen, in pieces
        with deepspeed.zero.GatheredParameters([parameter]):
            yield parameter.data
    else:
        yield parameter.data


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


def shards_state(engine: Engine) -> bool:
    """Whether a checkpoint of this engine is cut into one piece per process."""
    return isinstance(engine, DeepSpeedEngine) and engine.zero_stage > 0


def describe(engine: Engine) -> dict[str, Any]:
    """What a checkpoint's manifest records of the engine."""
    return {
        "engine": "deepspeed" if isinstance(engine, DeepSpeedEngine) else "plain",
        "zero_stage": engine.zero_stage,
        "world_size": engine.world.size,
    }
