"""Bytes of states per device: what the README of the configurations says, and what real engines hold."""

from __future__ import annotations

import pytest

from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.memory import added_bytes, count_states, small_weight_bytes
from tests.helpers.ranks import run_ranks
from tests.training.memory_bodies import config_of

CONFIGS = {
    "plain": config_of(None, "fp32"),
    **{f"zero{stage}": config_of(stage, "fp32") for stage in (0, 1, 2)},
    "zero1-bf16": config_of(1, "bf16"),
    "zero2-bf16": config_of(2, "bf16"),
    "zero3": config_of(3, "fp32", stage3_param_persistence_threshold=100),
    "zero3-bf16": config_of(3, "bf16", stage3_param_persistence_threshold=0),
}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [False, True], ids=["whole", "frozen"])
@pytest.mark.parametrize("workers", [1, 2])
def test_real_engines_hold_what_the_formula_counts(workers: int, frozen: bool) -> None:
    check_engines(list(CONFIGS), workers, frozen)


def test_an_engine_with_frozen_weights() -> None:
    check_engines(["zero2-bf16"], 2, True)


def check_engines(names: list[str], workers: int, frozen: bool) -> None:
    target = "tests.training.memory_bodies:count_states"
    configs = {name: CONFIGS[name] for name in names}
    (counted, *_) = run_ranks(workers, target, configs=configs, frozen=frozen)
    for name, config in configs.items():
        resolved = resolve_deepspeed(DeepSpeedSettings(config=config), device_type="cpu")
        held = counted[name]
        expected = count_states(resolved, held["parameters"], workers, held["trained"]).total
        expected += small_weight_bytes(resolved, held["sizes"]) if workers > 1 else 0
        # More by the padding of shares and DeepSpeed's scalars.
        assert 1.0 <= held["bytes"] / expected < 1.01, name


@pytest.mark.parametrize(
    ("name", "workers", "per_parameter"),
    [
        (None, 8, 16),
        ("zero0", 8, 16),
        ("zero1", 1, 20),
        ("zero1", 4, 11),
        ("zero2", 4, 11),
        ("zero1_fp16", 4, 8),
        ("zero2_bf16", 8, 4),
        ("zero3", 4, 5),
        ("zero3_bf16", 8, 2.25),
        ("zero3_offload", 4, 0),
        ("cpu", 2, 14),
    ],
)
def test_state_bytes(name: str | None, workers: int, per_parameter: float) -> None:
    config = resolve_deepspeed(DeepSpeedSettings(config=name))
    assert count_states(config, 1000, workers).total == 1000 * per_parameter


@pytest.mark.parametrize(
    ("name", "workers", "per_parameter", "elements"),
    [
        (None, 4, 8, 0),  # two moments
        ("zero0", 4, 8, 0),
        ("zero1", 1, 12, 200e6 + 1000),  # a copy of the weights and two moments; buckets
        ("zero1", 4, 3, 200e6 + 1000),
        ("zero2_bf16", 1, 10, 200e6 + 1000),
        ("zero2_bf16", 8, 0, 200e6 + 1000),  # less than float32 weights and gradients take
    ],
)
def test_what_training_adds(name: str | None, workers: int, per_parameter: float, elements: float) -> None:
    config = resolve_deepspeed(DeepSpeedSettings(config=name))
    assert added_bytes(config, 1000, workers, 1000) == 1000 * per_parameter + 4 * elements
