"""Tiny runs of the whole program in real processes, and what they leave behind."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml

PYTHON = sys.executable
BIN = Path(PYTHON).parent


def tiny_run(output: Path, cache: Path, **changes: Any) -> dict[str, Any]:
    """A run of a few steps on a part of the embedded sample."""
    run: dict[str, Any] = {
        "name": "tiny",
        "output_dir": str(output),
        "seed": 3,
        "data": {
            "sources": [{"name": "sample", "format": "sample", "languages": ["en", "fi", "hu"]}],
            "cache_dir": str(cache),
        },
        "batches": {"global_batch_size": 12, "alpha": 0.5},
        "model": {
            "scratch": {
                "vocabulary_size": 800,
                "architecture": {
                    "model_type": "bert",
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 32,
                    "hidden_dropout_prob": 0.1,
                },
            },
            "text": {"max_question_tokens": 24, "max_passage_tokens": 32},
        },
        "optimizer": {"learning_rate": 0.01},
        "training": {"steps": 6, "checkpoint_every": 3, "threads_per_worker": 1, "trackers": []},
        "workers": {"num_workers": 2, "address": "local", "start_timeout_seconds": 120},
    }
    for key, value in changes.items():
        place = run
        *path, last = key.split("__")
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return run


def write_run(file: Path, run: dict[str, Any]) -> Path:
    file.write_text(yaml.safe_dump(run), "utf-8")
    return file


def start(command: list[str | Path], cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command in its own session, so that all its processes can be found and ended."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **environment}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "RAY_ADDRESS"):
        env.pop(name, None)
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float = 500) -> tuple[int, str, str]:
    """Wait for a command; end its whole session if it takes too long."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for member in session_of(process.pid):
            member.kill()
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout} s\n{out[-3000:]}\n{err[-3000:]}") from None
    return process.returncode, out, err


def run_command(
    command: list[str | Path], cwd: Path, timeout: float = 500, **environment: str
) -> tuple[int, str, str]:
    """Start a command and wait for it."""
    return finish(start(command, cwd, **environment), timeout)


def hbt_dist(
    *arguments: str | Path, cwd: Path, timeout: float = 500, **environment: str
) -> tuple[int, str, str]:
    """The command line in a process of its own: (exit code, stdout, stderr)."""
    return run_command([BIN / "hbt-dist", *arguments], cwd, timeout, **environment)


def session_of(leader: int) -> list[psutil.Process]:
    """All living processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def left_behind(leader: int, seconds: float = 60) -> list[psutil.Process]:
    """Processes of a session that still live after a grace: Ray's actors end a moment after their node."""
    deadline = time.monotonic() + seconds
    while (found := session_of(leader)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def losses(output: Path) -> list[float]:
    """The loss of every step of a run."""
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["loss"] for row in rows]


def weights_digest(output: Path) -> str:
    """sha256 of the trained weights: equal if and only if they are bitwise equal."""
    return hashlib.sha256((output / "model" / "model.safetensors").read_bytes()).hexdigest()
