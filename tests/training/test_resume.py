"""An interrupted run, continued by the same command, ends bitwise where the uninterrupted one ends."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpointing import check_steps
from hbt_dist.training.checkpoints.manifest import read_manifest, verify
from hbt_dist.training.checkpoints.store import Checkpoint
from tests.helpers.faults import fault
from tests.helpers.runs import BIN, finish, losses, session_of, start, tiny_run, weights_digest
from tests.helpers.workers import Workers
from tests.training.conftest import Launch

Finished = Callable[..., Path]
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def assert_same(output: Path, reference: Path) -> None:
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)


def steps_done(output: Path) -> int:
    metrics = output / "metrics.jsonl"
    return len(metrics.read_text("utf-8").splitlines()) if metrics.is_file() else 0


def wait_for_step(output: Path, step: int, group: Workers, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while steps_done(output) < step:
        assert time.monotonic() < deadline, group.error()
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "where", "step", "rank"),
    [
        (1, "between_chunks", 4, 1),
        (2, "in_collective", 3, 0),
        (3, "during_save", 4, 1),
        (0, "before_forward", 1, 1),
        (None, "between_save_and_report", 4, 0),
    ],
)
def test_killed_worker(
    stage: int | None, where: str, step: int, rank: int, launch: Launch, finished: Finished, tmp_path: Path
) -> None:
    file, output = launch.file(tmp_path, deepspeed__config=stage)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault(f"rank={rank},step={step},where={where}"))
    codes = group.wait()
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] != 0
    assert not (output / "model").exists()
    # The checkpoint of step 4 is there if and only if it was complete.
    kept = [path.name for path in sorted((output / "checkpoints").glob("step-*")) if path.suffix != ".tmp"]
    expected = {1: [], 3: ["step-0000000002"], 4: ["step-0000000002"]}[step]
    if where == "between_save_and_report":
        expected = ["step-0000000002", "step-0000000004"]
    assert kept == expected
    launch.finish(file, 2)
    assert_same(output, finished(stage))
    assert not list((output / "checkpoints").glob("*.tmp"))


@pytest.mark.slow
def test_sigterm_saves_and_ends_cleanly(launch: Launch, tmp_path: Path) -> None:
    changes = {"deepspeed__config": 2, "training__steps": 30, "training__checkpoint_every": 1000}
    file, output = launch.file(tmp_path / "stopped", **changes)
    group = launch.start(file, 2)
    wait_for_step(output, 2, group)
    group.signal(1, signal.SIGTERM)  # one is enough: they agree after every step
    assert group.wait() == [0, 0], group.error()
    stopped = steps_done(output)
    assert 2 <= stopped < 30
    assert f"stopped at step {stopped} as asked; the same command continues" in group.output()
    assert verify(output / "checkpoints" / f"step-{stopped:010d}", stopped)[0] is None
    assert not (output / "model").exists()
    launch.finish(file, 2)
    assert f"continuing from the checkpoint of step {stopped}" in (output / "log.txt").read_text("utf-8")
    reference_file, reference = launch.file(tmp_path / "reference", **changes)
    launch.finish(reference_file, 2)
    assert_same(output, reference)


@pytest.mark.slow
def test_damaged_checkpoint_is_passed_over(launch: Launch, finished: Finished, tmp_path: Path) -> None:
    file, output = launch.file(tmp_path, deepspeed__config=3)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=0,step=5,where=before_forward"))
    assert group.wait()[0] == -signal.SIGKILL
    shard = next((output / "checkpoints" / "step-0000000004" / "state").glob("*rank_1*optim_states.pt"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    launch.finish(file, 2)
    log = (output / "log.txt").read_text("utf-8")
    assert f"step-0000000004 is passed over: state/{shard.name} does not match its checksum" in log
    assert "continuing from the checkpoint of step 2" in log
    assert_same(output, finished(3))


@pytest.mark.slow
def test_finished_run_started_again_changes_nothing(launch: Launch, finished: Finished) -> None:
    output = finished(1)
    before = losses(output), weights_digest(output)
    launch.finish(output.parent / "run.yaml", 2)
    assert (losses(output), weights_digest(output)) == before


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "learned"), [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
)
def test_other_numbers_of_workers(stage: int, learned: bool, launch: Launch, tmp_path: Path) -> None:
    """2 -> 1 -> 2 -> 3 -> 2, each killed after a step, and a plain resume of what a converted start saved."""
    model = without_dropout(launch.start_model, tmp_path / "start")
    own = Launch(launch.cache, model)
    changes = {
        "deepspeed__config": stage,
        "training__checkpoint_every": 1,
        "loss__learn_temperature": learned,
    }
    reference_file, reference = own.file(tmp_path / "reference", **changes)
    own.finish(reference_file, 2)
    file, output = own.file(tmp_path / "changing", **changes)
    for step, world_size in enumerate((2, 1, 2, 3, 2), start=1):
        group = own.start(
            file, world_size, HBT_DIST_FAULT=fault(f"rank=0,step={step},where=between_save_and_report")
        )
        assert group.wait()[0] == -signal.SIGKILL, group.error()
        assert not (output / "universal").exists()
    own.finish(file, 2)
    log = (output / "log.txt").read_text("utf-8")
    for before, after in ((2, 1), (1, 2), (2, 3), (3, 2)):
        assert f"was written by {before} workers; converted for {after}" in log
    for name in ("loss", "gradient_norm", "temperature"):
        np.testing.assert_allclose(_figures(output, name), _figures(reference, name), rtol=1e-5)
    assert _figures(output, "kind") == _figures(reference, "kind")
    _assert_close_weights(output, reference)


@pytest.mark.slow
def test_plain_checkpoints_fit_any_number_of_workers(launch: Launch, tmp_path: Path) -> None:
    own = Launch(launch.cache, without_dropout(launch.start_model, tmp_path / "start"))
    reference_file, reference = own.file(tmp_path / "reference", deepspeed__config=None)
    own.finish(reference_file, 2)
    file, output = own.file(tmp_path / "changing", deepspeed__config=None)
    for world_size, step in ((3, 2), (1, 4)):
        group = own.start(
            file, world_size, HBT_DIST_FAULT=fault(f"rank=0,step={step},where=between_save_and_report")
        )
        assert group.wait()[0] == -signal.SIGKILL, group.error()
    own.finish(file, 2)
    np.testing.assert_allclose(_figures(output, "loss"), _figures(reference, "loss"), rtol=1e-5)
    _assert_close_weights(output, reference)


def test_another_plan_is_refused(launch: Launch, finished: Finished) -> None:
    output = finished(1)
    run = yaml.safe_load((output.parent / "run.yaml").read_text("utf-8"))
    run["batches"]["alpha"] = 0.25
    other = output.parent / "other.yaml"
    other.write_text(yaml.safe_dump(run), "utf-8")
    before = weights_digest(output)
    group = launch.start(other, 1)
    assert group.wait() == [2]
    assert "holds another run" in group.error()
    assert weights_digest(output) == before


@pytest.mark.parametrize(
    ("steps", "training", "optimizer", "message"),
    [
        (20, {}, {}, None),
        (10, {}, {}, "is 10, but the run has made 12 already"),
        (40, {}, {}, "training.steps: is 40, but the learning rate has followed a course of 20 steps"),
        (15, {}, {}, "set training.schedule_steps: 20 to keep it"),
        (15, {"schedule_steps": 20}, {}, None),
        (20, {"schedule_steps": 30}, {}, "training.schedule_steps: is 30"),
        (40, {}, {"schedule": "constant", "warmup_steps": 3}, None),
        (40, {}, {"schedule": "constant", "warmup_ratio": 0.5}, "set training.schedule_steps: 20 to keep it"),
        (40, {"schedule_steps": 20}, {"schedule": "constant", "warmup_ratio": 0.5}, None),
    ],
)
def test_another_course_of_the_learning_rate_is_refused(
    steps: int,
    training: dict[str, Any],
    optimizer: dict[str, Any],
    message: str | None,
    tmp_path: Path,
) -> None:
    """12 of 20 steps are done; a run that asks for other learning rates of these is another run."""
    run = RunFile.model_validate(
        tiny_run(tmp_path, tmp_path, training={"steps": steps, **training}, optimizer=optimizer)
    )
    found = Checkpoint(tmp_path, 12, {"schedule_steps": 20})
    if message is None:
        check_steps(run, found)
    else:
        with pytest.raises(UserError, match=message):
            check_steps(run, found)


@pytest.mark.slow
def test_checkpoints_record_the_course_of_the_learning_rate(finished: Finished) -> None:
    output = finished(1)
    assert read_manifest(output / "checkpoints" / "step-0000000006")["schedule_steps"] == 6


@pytest.mark.slow
def test_a_run_goes_on_where_its_model_was_moved_to_and_not_with_another(
    launch: Launch, tmp_path: Path
) -> None:
    places = {name: tmp_path / name for name in ("first", "moved", "other")}
    for place in places.values():
        shutil.copytree(launch.start_model, place)
    config = json.loads((places["other"] / "config.json").read_text("utf-8"))
    (places["other"] / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}), "utf-8")
    outcomes = []
    for steps, place in ((2, "first"), (4, "moved"), (6, "other")):
        own = Launch(launch.cache, places[place])
        changes = {"deepspeed__config": None, "training__steps": steps, "training__schedule_steps": 6}
        file, output = own.file(tmp_path / "run", **changes)
        group = own.start(file, 1)
        outcomes.append((group.wait(), steps_done(output)))
    assert outcomes == [([0], 2), ([0], 4), ([2], 4)]
    assert "is not the model that the checkpoint of step 4 began with" in group.error()


@pytest.mark.cluster
@pytest.mark.slow
def test_torchrun_stopped_and_continued(launch: Launch, tmp_path: Path) -> None:
    """The same through torchrun and the installed command, without any forked shortcut."""
    changes = {"deepspeed__config": 1, "training__steps": 200, "training__checkpoint_every": 1000}
    file, output = launch.file(tmp_path, **changes)
    command: list[str | Path] = [BIN / "torchrun", "--nproc_per_node", "2", "--rdzv-backend", "c10d"]
    command += ["--rdzv-endpoint", "localhost:0", "--no-python", BIN / "hbt-dist", "train", file]
    command += ["--launcher", "local", "--quiet"]
    process = start(command, tmp_path)
    deadline = time.monotonic() + 200
    while steps_done(output) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert session_of(process.pid) == []
    stopped = steps_done(output)
    assert verify(output / "checkpoints" / f"step-{stopped:010d}", stopped)[0] is None
    again = start(command, tmp_path)
    code, _, err = finish(again)
    assert code == 0, err[-3000:]
    reference_file, reference = launch.file(tmp_path / "reference", **changes)
    launch.finish(reference_file, 2)
    assert_same(output, reference)


def _figures(output: Path, name: str) -> list[Any]:
    return [json.loads(line)[name] for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]


def without_dropout(model: Path, folder: Path) -> Path:
    """Dropout draws from (seed, step, rank): with it another number of workers trains with other noise."""
    folder.mkdir()
    for file in model.rglob("*"):
        if file.is_file():
            copy = folder / file.relative_to(model)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text("utf-8")) | WITHOUT_DROPOUT
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return folder


def _assert_close_weights(output: Path, reference: Path) -> None:
    from safetensors.numpy import load_file

    got, want = (load_file(folder / "model" / "model.safetensors") for folder in (output, reference))
    assert got.keys() == want.keys()
    for name, value in want.items():
        # Where a gradient is nearly zero AdamW turns its last bits into a visible part of a step of .01.
        np.testing.assert_allclose(got[name], value, atol=2e-4, err_msg=name)
        assert np.abs(got[name] - value).mean() < 1e-6, name
