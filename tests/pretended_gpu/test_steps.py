"""On the pretended GPU the contrastive step computes what it computes on the CPU, bit by bit in float32."""

from __future__ import annotations

import importlib.util

import pytest

from tests.pretended_gpu import call, steps, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
EQUAL = {"loss": 0.0, "norm": 0.0, "parameters": 0.0, "chunks": 0}
#: The names of steps.VARIANTS, in processes of at most 5 seconds.
PROCESSES = [
    ["cached", "direct", "masks, negatives, both directions", "Eq. 1 of the paper", "learned temperature"],
    ["denominators, hardness, spread-out"],
    ["sub-batches, alignment", "sub-batches, masks, negatives", "dot products"],
    ["false negatives by similarity", "false negatives by a guide", "distillation"],
    ["XLM-R, cached", "XLM-R, direct", "XLM-R, some graphs kept"],
    ["XLM-R, checkpointing", "XLM-R, chunks by tokens"],
]


@pytest.mark.parametrize("names", PROCESSES, ids=lambda names: names[0])
def test_every_variant_of_the_step_equals_the_cpus(names: list[str]) -> None:
    assert call(steps.variants, names=names) == dict.fromkeys(names, EQUAL)


def test_no_variant_is_left_out() -> None:
    assert sorted(name for names in PROCESSES for name in names) == sorted(steps.VARIANTS)


@pytest.mark.skipif(
    importlib.util.find_spec("torch.nn.attention.varlen") is None, reason="torch has no kernel of packed rows"
)
def test_packed_rows_give_the_same_steps() -> None:
    result = call(steps.packed)
    assert result["calls"] > 0
    assert 0 < result["loss"] < 0.02, result
    assert 0 < result["norm"] < 0.05, result


def test_faults_that_only_a_gpu_has_are_seen() -> None:
    seen = call(steps.planted_faults)
    assert seen.pop("none") == "equal"
    assert seen.pop("the GPU's generator is not replayed") == "different"
    assert seen.pop("a wrong scale on the GPU") == "different"
    assert "on the same device" in seen.pop("a tensor stays on the CPU")
    assert "can't convert cuda:0 device type tensor to numpy" in seen.pop("numpy() of a GPU's tensor")
    assert seen == {}
