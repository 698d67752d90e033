"""benchmarks/gpu/check.py runs the same code on the CPU with tiny sizes, and without DeepSpeed."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ranks import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "check.py"
# What the script must not need. A module that is None in sys.modules cannot be imported.
HIDE = "import sys; sys.modules.update(dict.fromkeys(['deepspeed', 'ray', 'faiss', 'datasets']));"


def run_script(tmp_path: Path, prefix: str = "") -> dict[str, Any]:
    out = tmp_path / "gpu.json"
    arguments = ["check.py", "--device", "cpu", "--tiny", "--out", str(out)]
    run = f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    code = f"{prefix}import runpy, sys; sys.argv = {arguments!r}; {run}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


@pytest.mark.timeout(300)
def test_without_deepspeed_it_says_what_it_skipped(tmp_path: Path) -> None:
    report = run_script(tmp_path, HIDE)
    assert report["failed"] == 0
    assert report["deepspeed"] == {"skipped": "DeepSpeed is not installed"}
    assert all(check["passed"] for check in report["equalities"].values())
    assert len(report["equalities"]) == 16
    assert [figures["global_batch_size"] for figures in report["training"]] == [64]
    assert report["training"][0]["tokens_per_second"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_with_deepspeed_every_shipped_configuration_is_checked(tmp_path: Path) -> None:
    report = run_script(tmp_path)
    assert report["failed"] == 0
    assert {"zero1", "zero2", "zero3"} <= set(report["deepspeed"])
