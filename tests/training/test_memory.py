"""Bytes of states per device, against what the README of the configurations says."""

from __future__ import annotations

import pytest

from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.memory import added_bytes, state_bytes


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
        ("zero3_offload", 4, 0),
        ("cpu", 2, 14),
    ],
)
def test_state_bytes(name: str | None, workers: int, per_parameter: float) -> None:
    config = resolve_deepspeed(DeepSpeedSettings(config=name))
    assert state_bytes(config, 1000, workers) == 1000 * per_parameter


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
    assert added_bytes(config, 1000, workers) == 1000 * per_parameter + 4 * elements
