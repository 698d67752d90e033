"""Save and load the state of an engine, and gather its trained weights, for every ZeRO stage."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hbt_dist.training.deepspeed.engine import DeepSpeedEngine, Engine, PlainEngine

TAG = "state"
PLAIN_FILE = "plain.pt"


def save_engine(engine: Engine, folder: Path) -> None:
    """Write trained weights and optimizer state into `folder`; every rank writes its part. Collective.

    Frozen weights are not written: they are those of the start model.

    Raises:
        OSError, RuntimeError: this rank could not write; the other ranks return and do not wait for it.
    """
    if isinstance(engine, DeepSpeedEngine):
        with _errors_after_barrier(engine.deepspeed):
            engine.deepspeed.save_checkpoint(
                str(folder), tag=TAG, save_latest=False, exclude_frozen_parameters=True
            )
    elif isinstance(engine, PlainEngine) and engine.world.rank == 0:
        frozen = frozen_names(engine.model)
        weights = {name: value for name, value in engine.model.state_dict().items() if name not in frozen}
        torch.save({"model": weights, "optimizer": engine.optimizer.state_dict()}, folder / PLAIN_FILE)


@contextlib.contextmanager
def _errors_after_barrier(deepspeed: Any) -> Iterator[None]:
    """Raise a failed write after DeepSpeed's last barrier, where the other ranks would wait forever.

    Also omits the Python scripts that DeepSpeed writes next to its files: `hbt-dist export` replaces them.
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


def frozen_names(model: torch.nn.Module) -> set[str]:
    """Return the names of the parameters that are not trained."""
    named = model.named_parameters(remove_duplicate=False)
    return {name for name, parameter in named if not parameter.requires_grad}


def load_engine(engine: Engine, folder: Path, *, universal: bool = False) -> None:
    """Load what `save_engine` wrote. Collective.

    With ZeRO the number of processes must be the same, unless `folder` has the universal form
    (`hbt_dist.training.checkpoints.resharding`). The files are pickles: verify the checksums first.
    """
    if isinstance(engine, DeepSpeedEngine):
        # Only while loading: DeepSpeed is reported to save less while it is on (its issue 7546).
        settings, optimizer = engine.deepspeed._config, engine.deepspeed.optimizer
        before, settings.load_universal_checkpoint = settings.load_universal_checkpoint, universal
        try:
            with _universal_loading(optimizer) if universal else contextlib.nullcontext():
                engine.deepspeed.load_checkpoint(
                    str(folder), tag=TAG, load_module_strict=not frozen_names(engine.model)
                )
        finally:
            settings.load_universal_checkpoint = before
        _keep_fused(optimizer)
    elif isinstance(engine, PlainEngine):
        state = torch.load(folder / PLAIN_FILE, map_location=engine.world.device, weights_only=True)
        engine.model.load_state_dict(state["model"], strict=not frozen_names(engine.model))
        engine.optimizer.load_state_dict(state["optimizer"])
        _keep_fused(engine.optimizer)


def _keep_fused(optimizer: Any) -> None:
    """Restore what the fused update needs: loading brings back the saved settings, and a universal checkpoint
    leaves step counters on the CPU.
    """
    optimizer = getattr(optimizer, "optimizer", optimizer)
    for group in optimizer.param_groups:
        group["fused"] = True
    for parameter, state in optimizer.state.items():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].to(parameter.device, torch.float32)


@contextlib.contextmanager
def _universal_loading(zero_optimizer: Any) -> Iterator[None]:
    with _hyperparameters_kept(zero_optimizer), _empty_groups_padded(zero_optimizer):
        yield


class _Padding:
    """Replace the parameter of a group without a part on this rank: there is nothing to read."""

    def __init__(self) -> None:
        self._hp_mapping = self

    def load_hp_checkpoint_state(self, *_: Any, **__: Any) -> None:
        """Return no step counter."""

    def get_optim_state_keys(self) -> list[str]:
        """Return no states."""
        return []


@contextlib.contextmanager
def _empty_groups_padded(zero_optimizer: Any) -> Iterator[None]:
    """Let ranks without a part of a parameter group load a universal checkpoint under ZeRO 1 and 2.

    A learned temperature is a group of one element, on one rank. DeepSpeed 0.19 reads the step counter of the
    first parameter that a rank has of each group, and raises an IndexError on a rank that has none.
    """
    name = "load_hp_checkpoint_state_from_checkpoint_dir"
    load = getattr(zero_optimizer, name, None)
    if load is None:
        yield
        return

    def load_with_padding(groups_name: str, folder: str) -> None:
        groups = getattr(zero_optimizer, groups_name)
        empty = [group for group in groups if all(p._hp_mapping is None for p in group)]
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
def _hyperparameters_kept(zero_optimizer: Any) -> Iterator[None]:
    """Undo what DeepSpeed 0.19 does to the optimizer when it loads a universal checkpoint under ZeRO-3.

    It gives every parameter group the hyperparameters of the first group, with its weight decay, and all
    shards the same step counter object, which then counts several times per step. It raises no error; the
    run continues with different updates (tests/training/test_resume.py, test_other_numbers_of_workers).
    """
    optimizer = zero_optimizer.optimizer
    saved = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    yield
    for group, hyperparameters in zip(optimizer.param_groups, saved, strict=True):
        group.update(hyperparameters)
    for state in optimizer.state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()


def weights_are_finite(engine: Engine) -> bool:
    """Return whether all trained weights, over all ranks, are finite. Collective."""
    shards = (getattr(p, "ds_tensor", p).detach() for p in engine.model.parameters() if p.requires_grad)
    return bool(engine.world.all_min(int(all(bool(torch.isfinite(shard).all()) for shard in shards))))


def gather_weights(engine: Engine) -> dict[str, Tensor] | None:
    """Return the encoder's trained weights on rank 0 (float32, CPU); None on other ranks. Collective.

    Under ZeRO these are the optimizer's weights: with bf16 or fp16 the module has a rounded copy. They are
    gathered one at a time, so that no other rank ever holds the whole model.
    """
    encoder, on_rank_0 = engine.model.encoder, engine.world.rank == 0
    if not shards_state(engine):
        frozen, state = frozen_names(encoder), encoder.state_dict()
        return {k: _copy(value) for k, value in state.items() if k not in frozen} if on_rank_0 else None
    weights: dict[str, Tensor] = {}
    for name, parameter in encoder.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        with _whole(parameter) as value:
            if on_rank_0:
                weights[name] = _copy(value)
    if not on_rank_0:
        return None
    saved, buffers = encoder.state_dict(), encoder.named_buffers()
    return weights | {name: _copy(buffer) for name, buffer in buffers if name in saved}


@contextlib.contextmanager
def _whole(parameter: torch.nn.Parameter) -> Iterator[Tensor]:
    """Yield all of a parameter under ZeRO, in float32 if the optimizer holds it in float32. Collective."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    trained = safe_get_full_fp32_param(parameter)
    if trained is not None:
        yield trained
    else:
        sharded = hasattr(parameter, "ds_id")
        with deepspeed.zero.GatheredParameters([parameter]) if sharded else contextlib.nullcontext():
            yield parameter.data


def _copy(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value.clone()


def weights_below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names start with `prefix`, named without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def shards_state(engine: Engine) -> bool:
    """Return whether a checkpoint of this engine has one piece per process."""
    return isinstance(engine, DeepSpeedEngine) and engine.zero_stage > 0


def describe(engine: Engine) -> dict[str, Any]:
    """Return what a checkpoint's manifest records about the engine."""
    return {
        "engine": "deepspeed" if isinstance(engine, DeepSpeedEngine) else "plain",
        "zero_stage": engine.zero_stage,
        "world_size": engine.world.size,
    }
