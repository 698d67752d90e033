"""Run benchmarks/gpu/check.py on the pretended GPU; called through `tests.pretended_gpu.call`."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def run(arguments: list[str], hidden: list[str]) -> dict[str, Any]:
    """Return the report, with the exit code; modules in `hidden` cannot be imported."""
    sys.modules.update(dict.fromkeys(hidden))
    from benchmarks.gpu.check import main

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "gpu.json")
        code = main([*arguments, "--tiny", "--out", str(out)])
        report: dict[str, Any] = json.loads(out.read_text("utf-8"))
    return {**report, "code": code}
