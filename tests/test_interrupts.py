"""Ctrl-C: a training saves what it has, every command says what is next, and a second one ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hbt_dist import cli
from hbt_dist.training.checkpoint import verify
from tests.helpers.runs import BIN, finish, losses, start, tiny_run, write_run


@pytest.fixture(autouse=True)
def _sigint_is_heard() -> Iterator[None]:
    """What a job in the background starts ignores Ctrl-C; these tests' processes must not inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def wait_for_steps(output: Path, steps: int, process: Any) -> None:
    deadline = time.monotonic() + 240
    metrics = output / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text("utf-8").splitlines()) < steps:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_ctrl_c_saves(tmp_path: Path) -> None:
    output = tmp_path / "out"
    changes = {"training__steps": 100_000, "training__checkpoint_every": 100_000}
    file = write_run(tmp_path / "run.yaml", tiny_run(output, tmp_path / "cache", **changes))
    command: list[str | Path] = [BIN / "hbt-dist", "train", file, "--launcher", "local"]
    process = start(command, tmp_path)
    wait_for_steps(output, 3, process)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err[-3000:]
    stopped = len(losses(output))
    assert "interrupted: saving after the running step; Ctrl-C again ends at once\n" in err
    assert err.endswith(f"stopped at step {stopped} as asked; the same command continues from there\n")
    assert verify(output / "checkpoints" / f"step-{stopped:010d}", stopped)[0] is None


SCRIPT = """
import os, signal, time
from hbt_dist.interrupts import interrupted
from hbt_dist.runtime import EnvironmentRuntime
def interrupt():
    os.kill(os.getpid(), signal.SIGINT)
try:
    with EnvironmentRuntime():
        interrupt()
except KeyboardInterrupt:
    print("at once before the first step", interrupted())
try:
    with EnvironmentRuntime() as runtime:
        print(runtime.request().name)
        interrupt()
        print(runtime.request().name, interrupted())
        interrupt()
        print("the same one, handed on by a launcher")
        time.sleep(1.1)
        interrupt()
except KeyboardInterrupt:
    print("at once")
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_the_first_asks_and_the_next_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "at once before the first step False",
        "NONE",
        "STOP True",
        "the same one, handed on by a launcher",
        "at once",
        "True",
    ]
    assert done.stderr.count("interrupted: saving") == 1


@pytest.mark.parametrize(
    ("arguments", "job", "said"),
    [
        (["train", "quickstart"], "hbt_dist.jobs.train_job", "interrupted; the same command continues"),
        (
            ["data", "inspect", "quickstart"],
            "hbt_dist.jobs.inspect_job",
            "interrupted; the same command starts again",
        ),
    ],
)
def test_every_command_says_what_is_next(
    arguments: list[str],
    job: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(job, interrupt)
    monkeypatch.setattr(sys, "argv", ["hbt-dist", *arguments])
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"{said}\n"
