"""Ctrl-C: a training saves what it has, every command says what is next, and a second one ends at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.cli import main as cli
from hbt_dist.common.signals import SECONDS_OF_ONE_INTERRUPT
from hbt_dist.training.checkpoints.manifest import verify
from tests.helpers.faults import fault
from tests.helpers.runs import BIN, finish, left_behind, losses, session_of, start, tiny_run, write_run

RAY_SECONDS = 400  # a start takes 20 seconds on two quiet cores, minutes on busy ones


@pytest.fixture(autouse=True)
def _sigint_is_heard() -> Iterator[None]:
    """What a job in the background starts ignores Ctrl-C; these tests' processes must not inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def launch() -> Iterator[Callable[..., Any]]:
    """Starts commands, and ends all their processes where a test has failed."""
    launched: list[Any] = []

    def begin(command: list[str | Path], folder: Path, **environment: str) -> Any:
        launched.append(start(command, folder, **environment))
        return launched[-1]

    yield begin
    for process in launched:
        for member in session_of(process.pid):
            member.kill()
        process.communicate()


def wait_for_steps(output: Path, steps: int, process: Any) -> None:
    deadline = time.monotonic() + RAY_SECONDS
    metrics = output / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text("utf-8").splitlines()) < steps:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
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


def ray_run(folder: Path, **changes: Any) -> tuple[Path, list[str | Path]]:
    """(output folder, command) of a training of two Ray workers that goes on until it is told to end."""
    changes = {
        "training__steps": 100_000,
        "training__schedule_steps": 100_000,  # fewer steps are the same training
        "training__checkpoint_every": 100_000,
        **changes,
    }
    run = tiny_run(folder / "out", folder / "cache", **changes)
    return folder / "out", [BIN / "hbt-dist", "train", write_run(folder / "run.yaml", run)]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whole_group", [False, True], ids=["driver", "terminal"])
def test_ctrl_c_saves_under_ray(launch: Callable[..., Any], tmp_path: Path, whole_group: bool) -> None:
    """A terminal sends it to every process of the foreground group, a job's end to the driver alone."""
    output, command = ray_run(tmp_path)
    process = launch(command, tmp_path)
    wait_for_steps(output, 3, process)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    code, _, err = finish(process, RAY_SECONDS)
    assert code == 130, err[-3000:]
    assert left_behind(process.pid) == []
    before = losses(output)
    stopped = len(before)
    assert err.count("interrupted: saving after the running step; Ctrl-C again ends at once\n") == 1
    assert err.endswith(f"stopped at step {stopped} as asked; the same command continues from there\n")
    assert "Traceback" not in err
    assert verify(output / "checkpoints" / f"step-{stopped:010d}", stopped)[0] is None

    code, _, err = finish(launch([*command, f"training.steps={stopped + 3}"], tmp_path), RAY_SECONDS)
    assert code == 0, err[-3000:]
    assert f"continuing from the checkpoint of step {stopped}" in (output / "log.txt").read_text("utf-8")
    assert losses(output)[:stopped] == before
    assert len(losses(output)) == stopped + 3
    assert (output / "model").is_dir()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_a_second_ctrl_c_ends_at_once_under_ray(launch: Callable[..., Any], tmp_path: Path) -> None:
    """One of the workers hangs, so that the first one asks in vain."""
    output, command = ray_run(tmp_path)
    process = launch(command, tmp_path, HBT_DIST_FAULT=fault("rank=1,step=4,where=hang"))
    wait_for_steps(output, 3, process)
    process.send_signal(signal.SIGINT)
    time.sleep(SECONDS_OF_ONE_INTERRUPT + 2)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process, 60)
    assert code == 130, err[-3000:]
    assert err.endswith("interrupted; the same command continues\n")
    assert "Traceback" not in err
    assert left_behind(process.pid) == []


SCRIPT = """
import os, signal, time
from hbt_dist.common.signals import interrupted
from hbt_dist.training.runtime import EnvironmentRuntime
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
    said = [line for line in done.stdout.splitlines() if not line.startswith("[Gloo]")]  # torch 2.8
    assert said == [
        "at once before the first step False",
        "NONE",
        "STOP True",
        "the same one, handed on by a launcher",
        "at once",
        "True",
    ]
    assert done.stderr.count("interrupted: saving") == 1


@pytest.mark.parametrize(("number", "verb"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
@pytest.mark.parametrize(
    ("arguments", "job", "said"),
    [
        (["train", "quickstart"], "hbt_dist.jobs.train.train_job", "the same command continues"),
        (
            ["data", "inspect", "quickstart"],
            "hbt_dist.jobs.inspect.inspect_job",
            "the same command starts again",
        ),
    ],
)
def test_every_command_says_what_is_next(
    arguments: list[str],
    job: str,
    said: str,
    number: int,
    verb: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(job, interrupt)
    monkeypatch.setattr(sys, "argv", ["hbt-dist", *arguments])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    signal.signal(signal.SIGTERM, before)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == f"{verb}; {said}\n"
