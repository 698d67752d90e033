"""Compiled layers against plain ones: the same vectors and gradients, and dropout that replays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.models.attention import NAME, attend
from hbt_dist.models.compilation import compile_layers
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings
from tests.contrastive.tiny import Case, build_encoder, locals_of


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("model", "precision"), [("xlmr", "fp32"), ("packed", "fp32"), ("xlmr", "bf16_copy")]
)
def test_a_step_with_compiled_layers_gives_the_gradient_of_plain_ones(model: str, precision: Any) -> None:
    case = Case(model=model, layers=2, dropout=0.0, num_rows=24, step={"chunk_rows": 12})
    encoder = build_encoder(case)
    compiled = copy.deepcopy(encoder)
    compile_layers(compiled.backbone, torch.device("cpu"))
    try:
        plain, fast = (_gradients(case, each, precision) for each in (encoder, compiled))
    finally:
        transformers.AttentionInterface.register(NAME, attend)
    # The bias of keys has no gradient but rounding, so all parameters together.
    difference = sum(float((fast[name] - gradient).square().sum()) for name, gradient in plain.items())
    size = sum(float(gradient.square().sum()) for gradient in plain.values())
    assert (difference / size) ** 0.5 < (1e-5 if precision == "fp32" else 0.03)


def _gradients(case: Case, encoder: Any, precision: Any) -> dict[str, torch.Tensor]:
    world = World.alone()
    engine = build_engine(
        encoder,
        optimizer=OptimizerSettings(),
        total_steps=1,
        world=world,
        deepspeed=ResolvedDeepSpeed(precision=precision),
    )
    engine.train()
    local = locals_of(case, 1, 0)[0]
    contrastive_step(engine, local, case.loss_settings, case.step_settings, world, engine.replay_tolerance)
    return {name: p.grad for name, p in engine.model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_dropout_in_compiled_layers_replays() -> None:
    """The step compares the two forwards of a chunk, without and with graph."""
    case = Case(model="xlmr", dropout=0.3, num_rows=24, step={"chunk_rows": 12})
    encoder: Any = build_encoder(case)
    compile_layers(encoder.backbone, torch.device("cpu"))
    try:
        _gradients(case, encoder, "fp32")
    finally:
        transformers.AttentionInterface.register(NAME, attend)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match="Linear has no layers to compile"):
        compile_layers(torch.nn.Linear(2, 2), torch.device("cpu"))
