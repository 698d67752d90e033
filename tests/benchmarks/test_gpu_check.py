"""benchmarks/gpu/check.py runs the same code on the CPU with tiny sizes, and without DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.ranks import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "check.py"
# What the script must not need. A module that is None in sys.modules cannot be imported.
HIDE = "import sys; sys.modules.update(dict.fromkeys(['deepspeed', 'ray', 'faiss', 'datasets']));"


def run_script(tmp_path: Path, *more: str, prefix: str = "", code: int = 0) -> dict[str, Any]:
    """The report; Liger's kernel runs in Triton's interpreter."""
    out = tmp_path / "gpu.json"
    arguments = ["check.py", "--device", "cpu", "--tiny", "--out", str(out), *more]
    run = f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", f"{prefix}import runpy, sys; sys.argv = {arguments!r}; {run}"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == code, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_without_deepspeed_it_says_what_it_skipped(tmp_path: Path) -> None:
    report = run_script(tmp_path, prefix=HIDE)
    assert report["failed"] == 0
    assert report["deepspeed"] == {"skipped": "DeepSpeed is not installed"}
    kernels = {"rows"}
    equal = report["equalities"]
    if importlib.util.find_spec("liger_kernel") is None:
        assert "needs liger-kernel" in equal.pop("loss kernel liger = float64")["skipped"]
    else:
        kernels.add("liger")
    assert all(check["passed"] for check in equal.values())
    for precision in ("fp32", "bf16_autocast"):
        assert f"{precision}, dropout replayed: second forward = first" in equal
        for directions in ("question_to_passage", "both"):
            ways = {
                "direct",
                "cached",
                "cached by tokens",
                *(f"cached, kernel {k}" for k in kernels - {"rows"}),
            }
            assert {f"{precision}, {directions}, {way} = plain" for way in ways} <= set(equal)
    assert {f"loss kernel {kernel} = float64" for kernel in kernels} <= set(equal)
    assert {(one["rows"], one["kernel"]) for one in report["loss"]} == {
        (rows, kernel) for rows in (64, 256) for kernel in kernels
    }
    for rows in (64, 256):
        losses = [one["loss"] for one in report["loss"] if one["rows"] == rows]
        assert losses == pytest.approx(losses[:1] * len(losses), rel=1e-5)
    assert [figures["global_batch_size"] for figures in report["training"]] == [64]
    assert report["training"][0]["tokens_per_second"] > 0


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_memory_that_does_not_suffice_halves_the_chunks_or_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script()
    tried: list[tuple[int, int]] = []

    def measure(device: Any, size: Any, rows: int, plan: dict[str, Any]) -> dict[str, Any]:
        tried.append((rows, plan["chunk_tokens"]))
        if rows == 999:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        if plan["chunk_tokens"] > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"seconds_per_step": rows / 10}

    monkeypatch.setattr(script, "measure_steps", measure)
    plan = {"lengths": (32, 100), "chunk_tokens": 800, "steps": 2}
    arguments = (script.Device("cpu"), {"one": {}}, [40, 20, 999, 9000], plan)
    found = list(script.measure_training(*arguments, script.Clock(500)))
    assert tried == [(20, 800), (20, 400), (20, 200), (40, 200), (999, 200), (999, 100)]
    assert [one.get("seconds_per_step") for one in found] == [2.0, 4.0, None, None]
    assert [one["chunk_tokens"] for one in found[:2]] == [200, 200]
    assert [one.get("skipped") for one in found[2:]] == ["out of memory", "out of memory with fewer rows"]


def test_what_takes_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    script = load_script()
    monkeypatch.setattr(script, "measure_steps", lambda device, size, rows, plan: {"seconds_per_step": rows})
    plan = {"lengths": (32, 100), "chunk_tokens": 800, "steps": 2}
    arguments = (script.Device("cpu"), {"one": {}, "two": {}}, [10, 100, 20], plan)
    found = list(script.measure_training(*arguments, script.Clock(100)))
    assert [(one["model"], one["global_batch_size"], "skipped" in one) for one in found] == [
        (model, rows, rows == 100) for model in ("one", "two") for rows in (10, 20, 100)
    ]
    assert "would take about 220 s" in found[2]["skipped"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_with_deepspeed_every_shipped_configuration_is_checked(tmp_path: Path) -> None:
    report = run_script(tmp_path, "--only", "deepspeed")
    assert report["failed"] == 0
    assert {"zero1", "zero2", "zero3"} <= set(report["deepspeed"])
