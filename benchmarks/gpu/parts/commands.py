"""Run commands of the package in new processes, as a user types them, and keep what they print."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.report import Figures

ROOT = Path(__file__).resolve().parents[3]
CLI = ("-m", "hbt_dist.cli.main")


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    output: str
    seconds: float

    def figures(self, *, passed: bool) -> Figures:
        """Return what the report keeps; the end of the output of a command that went wrong."""
        figures: Figures = {"passed": passed, "seconds": round(self.seconds, 2), "exit_code": self.code}
        return figures if passed else {**figures, "output": self.output[-1500:]}


def python(
    interpreter: tuple[str, ...],
    *arguments: str,
    cwd: Path,
    seconds: float,
    env: dict[str, str] | None = None,
) -> Done:
    """Run Python with arguments in a folder; a command that takes too long ends with code -9."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path), **(env or {})}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [*(interpreter or (sys.executable,)), *arguments],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        output = (error.stdout or b"").decode(errors="replace")
        return Done(-9, f"{output}\nno end after {seconds:.0f} s", time.monotonic() - began)
    return Done(done.returncode, done.stdout.decode(errors="replace"), time.monotonic() - began)
