"""Bytes of states per device, against what the README of the configurations says."""

from __future__ import annotations

import pytest

from hbt_dist.training.deepspeed_config import load_deepspeed_config
from hbt_dist.training.memory import state_bytes


@pytest.mark.parametrize(
    ("name", "workers", "per_parameter"),
    [
        (None, 8, 16),
        ("zero0", 8, 16),
        ("zero1", 1, 20),
        ("zero1", 4, 11),
        ("zero2", 4, 11),
        ("zero2_bf16", 8, 4),
        ("zero3", 4, 5),
        ("zero3_offload", 4, 0),
        ("cpu", 2, 14),
    ],
)
def test_state_bytes(name: str | None, workers: int, per_parameter: float) -> None:
    config = None if name is None else load_deepspeed_config(name)
    assert state_bytes(config, 1000, workers) == 1000 * per_parameter
