"""Checkpoints are handed on while training goes on, each once, whatever happens to the run's own copies."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from hbt_dist.errors import UserError
from hbt_dist.training.checkpoint import manifest_entries, verify, write_manifest
from hbt_dist.training.following import CheckpointFollower, hold
from hbt_dist.training.run_folder import RunFolder


def save(folder: RunFolder, step: int) -> Path:
    beside = folder.checkpoint(step).with_suffix(".tmp")
    (beside / "state").mkdir(parents=True)
    (beside / "state" / "weights").write_bytes(bytes([step % 251]) * 1000)
    write_manifest(beside, {"step": step}, manifest_entries(beside))
    beside.rename(folder.checkpoint(step))
    return folder.checkpoint(step)


def test_every_checkpoint_once_in_order(tmp_path: Path) -> None:
    folder, seen, said = RunFolder(tmp_path), list[int](), list[str]()
    save(folder, 1)
    save(folder, 2)

    def handle(held: Path, step: int) -> None:
        assert verify(held, step)[0] is None
        assert held.parent.parent == folder.root
        seen.append(step)
        if step == 3:
            raise UserError("evaluation", "does not work")

    with CheckpointFollower(folder, "work", handle, say=said.append, done={1}, every=0.01):
        save(folder, 3)
        save(folder, 4)
    assert seen == [2, 3, 4]
    assert said == ["warning: work of step 3: evaluation: does not work"]
    assert not list(tmp_path.glob("held-*"))


def test_a_held_checkpoint_outlives_its_removal(tmp_path: Path) -> None:
    folder, busy, go_on, sound = RunFolder(tmp_path), threading.Event(), threading.Event(), list[bool]()

    def handle(held: Path, step: int) -> None:
        busy.set()
        assert go_on.wait(10)
        sound.append(verify(held, step)[0] is None)

    with CheckpointFollower(folder, "work", handle, say=print, every=0.01):
        save(folder, 1)
        assert busy.wait(10)
        shutil.rmtree(folder.checkpoint(1))
        go_on.set()
    assert sound == [True]


def test_slow_work_leaves_out_the_oldest(tmp_path: Path) -> None:
    folder, seen, skipped, go_on = RunFolder(tmp_path), list[int](), list[int](), threading.Event()

    def handle(held: Path, step: int) -> None:
        seen.append(step)
        assert go_on.wait(10)

    with CheckpointFollower(
        folder, "work", handle, say=lambda text: None, most_waiting=2, skip=skipped.append, every=0.01
    ):
        save(folder, 1)
        while not seen:
            time.sleep(0.01)
        for step in range(2, 7):
            save(folder, step)
        go_on.set()
    assert seen == [1, 5, 6]
    assert skipped == [2, 3, 4]


def test_a_failed_training_waits_for_nothing(tmp_path: Path) -> None:
    folder, seen = RunFolder(tmp_path), list[int]()
    follower = CheckpointFollower(folder, "work", lambda held, step: seen.append(step), say=print, every=60)

    def train() -> None:
        with follower:
            save(folder, 1)
            raise KeyError

    with pytest.raises(KeyError):
        train()
    assert seen == []


def test_half_a_checkpoint_is_not_held(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    whole = save(folder, 1)
    (whole / "state" / "weights").unlink()
    assert not hold(whole, tmp_path / "held" / "step-0000000001")
    assert not hold(folder.checkpoint(2), tmp_path / "held" / "step-0000000002")
    assert list((tmp_path / "held").iterdir()) == []
