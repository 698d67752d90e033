"""benchmarks/gpu/check.py: every part runs on the pretended GPU at toy size; it reports what it must skip."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import check
from benchmarks.gpu.device import Context, Device
from benchmarks.gpu.parts import training
from benchmarks.gpu.parts.training import Best, Case
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.report import Clock, Report, compared
from tests.helpers.ranks import ROOT
from tests.pretended_gpu import call, why_not

on_pretended_gpu = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
PYTHON = f"{sys.executable} -m tests.benchmarks.pretended_python"
#: What an image with torch may lack, and the package needs.
BARE = ["pydantic", "deepspeed", "ray", "faiss", "datasets", "typer"]


def run(*parts: str, hidden: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> dict[str, Any]:
    arguments = [word for part in parts for word in ("--only", part)]
    report = call(
        "tests.benchmarks.gpu_check:run", arguments=[*arguments, *more], hidden=list(hidden), timeout=500
    )
    assert report["device"]["device_type"] == "cuda"
    assert not report["failed"], report
    assert report["code"] == 0
    return report  # type: ignore[no-any-return]


@on_pretended_gpu
@pytest.mark.slow
def test_probe_and_products_need_torch_alone() -> None:
    report = run("probe", "loss", "training", "command", hidden=tuple(BARE))
    rates = report["probe"]["rates"]["all"]
    assert Rates.of_measured(rates).measured == tuple(sorted(rates))
    assert "none, dropout 0.1, graph" in report["probe"]["attention"]["chosen"]
    assert {name.split(",")[0] for name in report["loss"] if "x" in name} == {
        f"products {precision}" for precision in ("tf32", "ieee", "bf16")
    }
    assert "pip install pydantic" in report["loss"]["loss"]["skipped"]
    assert report["training"]["skipped"] == {"skipped": "needs pydantic: pip install pydantic"}
    assert "deepspeed" in report["command"]["skipped"]["skipped"]


@on_pretended_gpu
def test_ranks_are_the_cpus() -> None:
    figures = run("evaluate")["evaluate"]["40 x 90"]
    assert figures["ranks_unlike_the_cpus"] == figures["ranks_wrong_in_float64"] == 0


@on_pretended_gpu
@pytest.mark.slow
def test_losses_of_every_precision_are_equal() -> None:
    losses = {name: value for name, value in run("loss")["loss"].items() if name.startswith("rows")}
    for size in ("64 x 64", "32 x 256"):
        values = [value["loss"] for name, value in losses.items() if size in name]
        assert len(values) >= 2
        assert values == pytest.approx(values[:1] * len(values), rel=1e-5)


@on_pretended_gpu
@pytest.mark.slow
def test_equalities_hold() -> None:
    report = run("equalities")["equalities"]
    passed = {name for name, value in report.items() if value.get("passed")}
    for precision in ("fp32", "bf16_autocast"):
        for rows in ("rows of equal length", "padded rows"):
            assert f"{precision}, dropout replayed, {rows}: second forward = first" in passed
            assert f"{precision}, cuDNN, dropout replayed, {rows}: second forward = first" in passed
        for way in ("direct", "cached", "cached by tokens"):
            assert f"{precision}, both, {way} = plain" in passed


@on_pretended_gpu
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_every_shipped_deepspeed_file_passes() -> None:
    report = run("deepspeed", more=("--seconds", "400"))["deepspeed"]
    assert {name for name, value in report.items() if value.get("passed")} >= {"zero1", "zero2", "zero3"}


@on_pretended_gpu
@pytest.mark.slow
def test_steps_of_every_engine_and_chunk_are_measured() -> None:
    report = run("training", more=("--seconds", "400", "--chunk-rows", "4"))["training"]
    names = [name for name in report if "pairs" in name]
    for part in ("plain, rows", "plain, 48 tokens", "padded", "equal lengths", "12 pairs", "kept graphs"):
        assert any(part in name for name in names), part
    kept = {name: report[name]["kept_chunks"] for name in names}
    assert {count > 0 for name, count in kept.items() if "kept graphs" in name} == {True}
    assert {count for name, count in kept.items() if "kept graphs" not in name} == {0}
    assert all(report[name]["seconds"] > 0 for name in names)
    assert len(report["tiny, profile"]["largest"]) == 12


@on_pretended_gpu
@pytest.mark.slow
def test_texts_are_encoded_in_every_precision() -> None:
    report = run("encode")["encode"]
    assert report["float32"]["difference"] == 0.0
    assert report["bfloat16"]["difference"] > 0


@on_pretended_gpu
@pytest.mark.slow
def test_commands_end_as_predicted() -> None:
    report = run("command", more=("--seconds", "450", "--python", PYTHON))["command"]
    assert report["evaluate on device and CPU"]["devices"] == ["cuda", "cpu"]
    assert report["torchrun, two ranks on one GPU"]["passed"]


@pytest.mark.ray
def test_the_parts_with_ray(tmp_path: Path) -> None:
    report = run_on_cpu(tmp_path, "--only", "cluster")["cluster"]
    assert len(report) == 5


@pytest.mark.slow
def test_the_command_without_a_gpu(tmp_path: Path) -> None:
    report = run_on_cpu(tmp_path, "--only", "evaluate", "--only", "probe")
    assert report["device"]["device_type"] == "cpu"
    assert report["evaluate"]["40 x 90"]["passed"]


def run_on_cpu(tmp_path: Path, *more: str) -> dict[str, Any]:
    out = tmp_path / "gpu.json"
    command = [sys.executable, str(ROOT / "benchmarks/gpu/check.py"), "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(out), *more],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def context(seconds: float) -> Context:
    return Context(device=Device("cpu"), clock=Clock(seconds), tiny=True)


CASE = Case("plain", chunk_tokens=800, chunk_rows=100, padded=False, lengths=(32, 100))


def test_memory_that_does_not_suffice_halves_the_chunks_or_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int]] = []

    def measure(context: Context, engine: Any, size: Any, rows: int, case: Case) -> dict[str, Any]:
        tried.append((rows, case.chunk_tokens))
        if rows == 999:
            raise RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)")
        if case.chunk_tokens > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"seconds": rows / 10}

    monkeypatch.setattr(training, "measure_steps", measure)
    engine: Any = type("Engine", (), {"optimizer": torch.optim.SGD([torch.zeros(1)])})
    assert training.step_that_fits(context(9), engine, {}, 20, CASE) == {"chunk_tokens": 200, "seconds": 2.0}
    assert training.step_that_fits(context(9), engine, {}, 999, CASE)["skipped"] == "out of memory"
    assert tried == [(20, 800), (20, 400), (20, 200), *((999, tokens) for tokens in (800, 400, 200, 100))]


def test_what_takes_too_long_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "measure_steps", lambda *_: {"seconds": 10.0, "pairs_per_second": 1.0})
    engine: Any = None
    best = Best()
    assert "seconds" in training.measured(context(100), engine, ("tiny", {}), 10, CASE, best)
    skipped = training.measured(context(100), engine, ("tiny", {}), 100, CASE, best)
    assert "would take about 150 s" in skipped["skipped"]
    assert best.case == CASE


def test_predictions_are_those_of_the_roofline() -> None:
    cases = {
        0.21: replace(CASE, chunk_rows=64),
        0.24: replace(CASE, chunk_rows=1 << 20),
        0.29: replace(CASE, engine="ZeRO-1, bf16 copy", padded=True),
        0.31: replace(CASE, engine="ZeRO-1, bf16 copy"),
        0.335: replace(CASE, engine="ZeRO-1, bf16 copy, compiled"),
    }
    for mfu, case in cases.items():
        assert training.predicted_mfu("xlmr-base", case) == pytest.approx(mfu, abs=0.006)
    assert training.predicted_mfu("tiny", CASE) is None


def test_the_fastest_case_is_the_best() -> None:
    best, slow = Best(), replace(CASE, engine="slow")
    best.note(slow, 10, {"seconds": 5.0, "pairs_per_second": 2.0})
    best.note(CASE, 10, {"seconds": 1.0, "pairs_per_second": 10.0})
    best.note(slow, 10, {"skipped": "out of memory"})
    assert (best.case, best.seconds_per_row) == (CASE, 0.5)


def test_the_report_is_written_after_every_figure(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    report = Report(out, {"device": "none"})
    seen = []

    def figures() -> Any:
        yield "first", compared(0.5, 1.0)
        seen.append(json.loads(out.read_text("utf-8"))["part"]["first"]["passed"])
        yield "second", compared(float("nan"), 1.0)
        seen.append(json.loads(out.read_text("utf-8"))["failed"])

    report.extend("part", figures())
    assert seen == [True, ["part: second"]]


def test_an_error_ends_its_part_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.importlib, "import_module", lambda _: 1 / 0)
    [(name, figures)] = check.figures_of("probe", context(1))
    assert (name, figures["passed"]) == ("error", False)
    assert "ZeroDivisionError" in figures["error_message"]
