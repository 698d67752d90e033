"""`ray job submit` against a running head: logs stream, a stopped job continues with the same command.

The head is one of our own on loopback, with its own folder and ports; it is ended by its session, never by
`ray stop`, which would end every Ray of the user.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.ray_head import Head, running_head
from tests.helpers.runs import BIN, PYTHON, losses, run_command, tiny_run, write_run

TRAIN = Path(__file__).resolve().parents[2] / "launchers" / "train.py"

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def wait_for(condition: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {seconds} s"
        time.sleep(0.5)


def test_a_stopped_job_continues(head: Head, tmp_path: Path) -> None:
    output = tmp_path / "out"
    # The second job ends earlier than the first would have: the learning rate must not notice.
    course = {"training__checkpoint_every": 2, "training__schedule_steps": 100_000}
    run = tiny_run(output, tmp_path / "cache", training__steps=40, **course)
    run["workers"]["address"] = "auto"
    file = write_run(tmp_path / "run.yaml", run)
    slow = "training.steps=100000"
    code, out = head.job("submit", "--no-wait", "--submission-id", "first", "--", PYTHON, TRAIN, file, slow)
    assert code == 0, out
    wait_for(lambda: list(output.glob("checkpoints/step-*[0-9]")), 200, "no checkpoint")
    code, out = head.job("stop", "first")
    assert code == 0, out
    assert "was stopped" in head.job("status", "first")[1]
    done = max(int(path.name[5:]) for path in output.glob("checkpoints/step-*[0-9]"))
    total = f"training.steps={done + 4}"

    code, out = head.job("submit", "--submission-id", "second", "--", PYTHON, TRAIN, file, total)
    assert code == 0, out
    assert "continuing from the checkpoint of step" in out, "the job's log does not stream"
    assert f"model: {output / 'model'}" in out
    assert len(losses(output)) == done + 4


def test_a_notice_of_preemption_makes_a_checkpoint(head: Head, tmp_path: Path) -> None:
    """The last test: the node is drained afterwards."""
    output = tmp_path / "out"
    changes = {"training__steps": 100_000, "training__checkpoint_every": 100_000}
    run = tiny_run(output, tmp_path / "cache", **changes)
    run["workers"]["address"] = "auto"
    file = write_run(tmp_path / "run.yaml", run)
    code, out = head.job("submit", "--no-wait", "--submission-id", "third", "--", PYTHON, TRAIN, file)
    assert code == 0, out
    wait_for((output / "metrics.jsonl").is_file, 200, "no step")
    watcher = TRAIN.with_name("preemption_watcher.py")
    notice = tmp_path / "notice"
    notice.write_text("TRUE")
    command = [PYTHON, watcher, "--cloud", "gcp", "--metadata", notice.as_uri()]
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}"}
    code, out, err = run_command(
        [*command, "--address", f"127.0.0.1:{head.port}"], tmp_path, 120, **environment
    )
    assert code == 0, out + err
    wait_for(lambda: list(output.glob("checkpoints/step-*[0-9]")), 90, "no checkpoint after the notice")
    head.job("stop", "third")
