"""The roofline: kernels of a chunk have a budget, the real step has as many; estimates by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import rates, roofline
from benchmarks.gpu.rates import Rates, peak_flops_of
from benchmarks.gpu.sizes import SIZES, model_flops
from benchmarks.gpu.tally import Kernel, fused, kernel_seconds
from tests.helpers.ranks import ROOT
from tests.pretended_gpu import why_not

on_pretended_gpu = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
BF16, FP32 = torch.bfloat16, torch.float32


def counts(what: str) -> Any:
    command = [sys.executable, "-m", "tests.benchmarks.roofline_counts", what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@on_pretended_gpu
def test_kernels_of_a_chunk_of_xlmr_base() -> None:
    """At most as many as when the predictions were made; with fewer, lower the numbers."""
    found = counts("chunk")
    assert found["copy"][0] <= 190
    assert found["copy"][1] <= 932
    # autocast casts every weight in every chunk
    assert found["first wave"][0] > 2 * found["copy"][0]
    assert found["copy, compiled"][0] < 0.7 * found["copy"][1]


@on_pretended_gpu
@pytest.mark.slow
def test_the_real_step_has_the_predicted_kernels() -> None:
    found = counts("step")
    assert found["step"] == pytest.approx(found["predicted"], rel=0.12)


def test_seconds_are_the_largest_of_arithmetic_traffic_and_launch() -> None:
    round_rates = Rates(bf16_products=100.0, fp32_products=10.0, tf32_products=50.0, bytes_per_second=1000.0)
    product = Kernel("mm", 1000.0, BF16, {1: 10}, {2: 10})
    assert kernel_seconds(product, round_rates) == 10.0
    assert kernel_seconds(Kernel("mm", 1000.0, FP32, {}, {}), round_rates) == 100.0
    assert kernel_seconds(Kernel("mm", 1000.0, FP32, {}, {}), round_rates, tf32=True) == 20.0
    assert kernel_seconds(Kernel("add", 0.0, BF16, {1: 600}, {2: 400}), round_rates) == 1.0
    assert kernel_seconds(Kernel("add", 0.0, BF16, {}, {}), round_rates) == round_rates.kernel_seconds


def test_fused_kernels_by_hand() -> None:
    kernels = [
        Kernel("mm", 1.0, BF16, {1: 8}, {2: 8}),
        Kernel("gelu", 0.0, BF16, {2: 8}, {3: 8}),  # read by the product below
        Kernel("mul", 0.0, BF16, {2: 8}, {4: 8}),  # read by nothing but the next
        Kernel("mm", 1.0, BF16, {3: 8}, {5: 8}),
        Kernel("add", 0.0, BF16, {4: 8}, {6: 8}),  # needs only the first product: joins its group
        Kernel("add_", 0.0, FP32, {6: 8, 7: 8}, {7: 8}),  # a sum of gradients stays
    ]
    assert [kernel.name for kernel in fused(kernels)] == ["mm", "fused", "mm", "add_"]
    [group] = [kernel for kernel in fused(kernels) if kernel.name == "fused"]
    assert (group.reads, group.writes) == ({2: 8}, {3: 8, 6: 8})


def test_measured_rates_replace_assumed_ones(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"probe": {"rates": {"all": {"bf16_products": 7e14}}}}))
    read = Rates.of_file(file)
    assert (read.bf16_products, read.fp32_products) == (7e14, Rates().fp32_products)
    assert read.measured == ("bf16_products",)
    with pytest.raises(ValueError, match="expected names of rates, got bf32"):
        Rates.of_measured({"bf32": 1.0})


def test_peaks_by_name() -> None:
    assert peak_flops_of("NVIDIA H200") == rates.PEAK_FLOPS["H200"]
    assert peak_flops_of("pretended GPU") is None


def test_model_flops_by_hand() -> None:
    size = {"hidden_size": 10, "num_hidden_layers": 2, "num_attention_heads": 1, "vocab_size": 30}
    assert model_flops(size, 1300, 3, (4, 8)) == 3 * (6 * 1000 * 12 + 12 * 2 * 10 * (16 + 64))


def test_the_committed_predictions_meet_the_aim() -> None:
    """XLM-R base 0.40 and 560M 0.45 with kept graphs; `roofline.py` writes the file."""
    document = json.loads((ROOT / "benchmarks/results/roofline.json").read_text("utf-8"))
    best = {name: max(row["mfu"] for row in document[name]) for name in SIZES}
    assert best["xlmr-base"] >= 0.40
    assert best["560M"] >= 0.45
    assert roofline.summary("560M", document["560M"]).startswith("560M: predicted MFU")
