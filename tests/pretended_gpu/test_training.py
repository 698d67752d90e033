"""DeepSpeed, the self-check, the search of the chunk size and the command on the pretended GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hbt_dist.training.deepspeed.settings import shipped_configs
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import hbt_dist
from tests.pretended_gpu import call, training, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
STAGES = [None, 0, 1, 2, 3]


def test_plain_torch_passes_the_self_check() -> None:
    checks = call(training.self_checks)
    assert {name: check["passed"] for name, check in checks.items()} == {
        "fp32": True,
        "bf16_autocast": True,
        "bf16_copy": True,
    }
    assert all(check["engine"].endswith("on cuda") for check in checks.values())


@pytest.mark.slow
def test_every_shipped_file_trains_on_one_rank() -> None:
    assert_trained(call(training.shipped_files, names=shipped_configs()))


@pytest.mark.slow
def test_every_shipped_file_trains_on_two_ranks() -> None:
    first, second = call(training.shipped_files, names=shipped_configs(), ranks=2)
    assert_trained(first)
    assert first == second


def assert_trained(files: dict[str, dict[str, Any]]) -> None:
    """In bfloat16 losses are within a percent of those in float32."""
    assert list(files) == shipped_configs()
    for name, facts in files.items():
        assert facts["passed"], (name, facts)
        assert facts["loss_error"] < 0.01, (name, facts)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_every_zero_stage_computes_the_cpus_numbers(ranks: int) -> None:
    """In float32: losses, norms, gradients, parameters and exported weights, bit by bit."""
    gpu = call(training.stages, ranks=ranks, which=STAGES)
    cpu = run_ranks(ranks, "tests.pretended_gpu.training:stages", which=STAGES)
    for of_gpu, of_cpu in zip(gpu if ranks > 1 else [gpu], cpu, strict=True):
        for stage, numbers, expected in zip(STAGES, of_gpu, of_cpu, strict=True):
            assert len(expected) > 20
            assert [name for name in expected if numbers[name] != expected[name]] == [], f"stage {stage}"


def test_collectives_take_tensors_of_the_gpu_only() -> None:
    for rank, result in enumerate(call(training.collectives, ranks=2)):
        assert result == {
            "gathered": ["cuda:0", [0.0, 0.0, 1.0, 1.0]],
            "scattered": [3.0 * rank] * 2,
            "largest": 1,
            "objects": [{"rank": 0}, {"rank": 1}],
            "refused": "No backend type associated with device type cpu",
        }


def test_a_search_of_chunk_rows_ends_at_every_message_of_full_memory() -> None:
    messages = [
        None,
        "CUDA error: invalid configuration argument",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ]
    assert call(training.chunk_rows, messages=messages) == [[16, [100, 64, 32, 16]]] * 3


def test_a_search_of_chunk_rows_starts_below_the_grid_of_attention() -> None:
    ((rows, tried),) = call(training.chunk_rows, messages=[None], most_rows=100_000)
    assert (rows, tried[0], len(tried)) == (16, 32_768, 12)


def test_an_error_of_the_gpu_that_is_no_lack_of_memory_ends_the_search() -> None:
    with pytest.raises(RuntimeError, match="device-side assert"):
        call(training.chunk_rows, messages=["CUDA error: device-side assert triggered"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_command_trains_saves_exports_and_evaluates(tmp_path: Path) -> None:
    """In float32 the losses are the CPU's, but for another kernel of attention."""
    settings = ["training.steps=4", "training.checkpoint_every=2", "deepspeed.config=null"]
    (tmp_path / "gpu").mkdir()
    gpu = call(
        training.command,
        folder=str(tmp_path / "gpu"),
        settings=[*settings, "workers.use_gpu=true"],
        timeout=500,
    )
    (tmp_path / "cpu").mkdir()
    arguments = ("train", "quickstart", *settings, "--launcher", "local")
    code, _, err = hbt_dist(*arguments, cwd=tmp_path / "cpu", timeout=500)
    assert (gpu["code"], code) == (0, 0), err[-3000:]
    cpu = training.outcome(tmp_path / "cpu")
    assert gpu["losses"] == pytest.approx(cpu["losses"], rel=1e-4)
    assert gpu["map"] == pytest.approx(cpu["map"], abs=1e-3)
    assert gpu["map"]["end"] > gpu["map"]["start"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("config", ["zero1", "zero3", "zero3_offload"])
def test_command_goes_on_from_a_checkpoint(config: str, tmp_path: Path) -> None:
    settings = ["training.checkpoint_every=2", f"deepspeed.config={config}", "workers.use_gpu=true"]
    settings += ["evaluation.when=[]"]
    for steps in (2, 4):
        result = call(
            training.command,
            folder=str(tmp_path),
            settings=[*settings, f"training.steps={steps}"],
            timeout=500,
        )
        assert result["code"] == 0
        assert len(result["losses"]) == steps
