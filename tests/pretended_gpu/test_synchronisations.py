"""A training step makes the host wait for the GPU a fixed number of times, and not once per chunk.

python benchmarks/gpu/synchronisations.py     # the same count, with its lines
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.pretended_gpu import call, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def assert_within(per_step: int, per_chunk: int, **step: Any) -> None:
    """With 8 chunks; the message names the lines that wait."""
    count = call("benchmarks.gpu.synchronisations:measure", **step)
    lines = "\n".join(count["lines"])
    assert count["per_chunk"] <= per_chunk, f"{count['per_chunk']} per chunk, at most {per_chunk}:\n{lines}"
    assert count["per_step"] <= per_step, f"{count['per_step']} per step, at most {per_step}:\n{lines}"


def test_budget_of_the_default() -> None:
    assert_within(7, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "per_step", "per_chunk"),
    [
        ("zero2", 7, 0),
        ("zero2_bf16", 8, 0),
        ("zero1_fp16", 8, 0),
        ("zero3", 7, 0),
        ("zero3_offload", 18, 1),  # gradients go to the host after each chunk
    ],
)
def test_budget_of_the_shipped_files(config: str, per_step: int, per_chunk: int) -> None:
    assert_within(per_step, per_chunk, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16_autocast", "bf16_copy"])
def test_budget_of_plain_torch(precision: str) -> None:
    assert_within(2, 0, config=None, precision=precision)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_step", "loss"),
    [
        (10, {"learn_temperature": True}),  # its value, and the norm of another group of parameters
        (7, {"directions": "both"}),
        (7, {"negatives": "sub_batch"}),
        (7, {"distillation": {}}),
        (7, {"false_negatives": {"margin": 0.0, "guide": "guide"}, "directions": "both"}),
    ],
)
def test_budget_of_other_losses(per_step: int, loss: dict[str, Any]) -> None:
    assert_within(per_step, 0, **loss)
