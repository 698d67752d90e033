"""A training step makes the host wait for the GPU a fixed number of times, and not once per chunk.

python benchmarks/gpu/synchronisations.py     # the same count, with its lines
"""

from __future__ import annotations

import pytest

from tests.pretended_gpu import call, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
PER_STEP, PER_CHUNK = 8, 0  # with 8 chunks under ZeRO-1


def test_budget_of_synchronisations() -> None:
    count = call("benchmarks.gpu.synchronisations:measure")
    lines = "\n".join(count["lines"])
    assert count["per_chunk"] <= PER_CHUNK, f"{count['per_chunk']} per chunk, at most {PER_CHUNK}:\n{lines}"
    assert count["per_step"] <= PER_STEP, f"{count['per_step']} per step, at most {PER_STEP}:\n{lines}"
