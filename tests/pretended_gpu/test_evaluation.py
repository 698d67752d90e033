"""Encoding and ranking on a GPU: the digits of the CPU, and no wait per block or batch."""

from __future__ import annotations

import pytest

from tests.pretended_gpu import call, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
MIXED = "same device"


def test_ranks_and_lists_equal_the_cpus_and_nothing_waits_inside_a_pass() -> None:
    result = call("tests.pretended_gpu.evaluation:ranks")
    for name in ("counts", "lists", "floats"):
        assert result[name]["different"] == [], name
        waits = result[name]["waits"]
        # A reading thread waits for the copy from its buffer: 8 blocks are read in each of two passes.
        assert waits.pop("event.synchronize") <= 16
        assert waits == {"download": 2, "pageable upload": 1}, name
    assert "top rows" in result["ids in another order"]
    assert MIXED in result["a tensor stays on the CPU"]


def test_an_evaluation_is_the_same_on_both_devices() -> None:
    result = call("tests.pretended_gpu.evaluation:whole_evaluation")
    assert result == {"means": True, "bias": True, "consistency": True, "lists": True}


def test_vectors_equal_the_cpus_and_come_in_few_downloads() -> None:
    result = call("tests.pretended_gpu.evaluation:encoding")
    assert result["difference"] < 1e-6
    assert result["files"]
    # About 18 batches in 2 parts: the host waits for copies of eight batches, never for the batch that runs.
    assert set(result["waits"]) == {"event.synchronize"}, result["lines"]
    assert result["waits"]["event.synchronize"] <= 4
    on_gpu, on_cpu = result["bfloat16"]
    assert 0.2 < on_gpu / on_cpu < 5
    assert result["resolved"] == "bfloat16"
    assert result["cudnn"] is False
    assert MIXED in result["fault"]
