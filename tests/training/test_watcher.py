"""Checkpoints are handed on while training goes on, each once, whatever happens to the run's own copies."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder
from hbt_dist.training.checkpoints.manifest import files_below, hash_files, verify, write_manifest
from hbt_dist.training.checkpoints.watcher import CheckpointWatcher, hold
from hbt_dist.training.run_folder import RunFolder


def save(folder: RunFolder, step: int) -> Path:
    with atomic_folder(folder.checkpoint(step)) as temporary:
        (temporary / "state").mkdir()
        (temporary / "state" / "weights").write_bytes(bytes([step % 251]) * 1000)
        write_manifest(temporary, {"step": step}, hash_files(temporary, files_below(temporary)))
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

    with CheckpointWatcher(folder, "work", handle, say=said.append, done={1}, every=0.01):
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

    with CheckpointWatcher(folder, "work", handle, say=print, every=0.01):
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

    with CheckpointWatcher(
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


def test_what_waits_may_be_left_out_meanwhile(tmp_path: Path) -> None:
    """A step that waited for its turn is left out while another one is worked on: it is not handled after."""
    folder, seen, skipped, said = RunFolder(tmp_path), list[int](), list[int](), list[str]()
    go_on = threading.Event()

    def handle(held: Path, step: int) -> None:
        seen.append(step)
        assert verify(held, step)[0] is None
        assert go_on.wait(10)

    save(folder, 1)
    save(folder, 2)
    watcher = CheckpointWatcher(
        folder, "work", handle, say=said.append, most_waiting=2, skip=skipped.append, every=0.01
    )
    with watcher:
        while not seen:
            time.sleep(0.01)
        for step in range(3, 7):
            save(folder, step)
        go_on.set()
    assert seen == [1, 5, 6]
    assert skipped == [2, 3, 4]
    assert not [text for text in said if "warning" in text]


def test_what_is_needed_no_more_is_let_go(tmp_path: Path) -> None:
    folder, seen, go_on = RunFolder(tmp_path), list[int](), threading.Event()

    def handle(held: Path, step: int) -> None:
        seen.append(step)
        assert go_on.wait(10)

    with CheckpointWatcher(
        folder,
        "work",
        handle,
        say=print,
        newest_first=True,
        unneeded=lambda steps: {step for step in steps[:-2] if step % 3},
        every=0.01,
    ):
        save(folder, 1)
        while not seen:
            time.sleep(0.01)
        for step in range(2, 8):
            save(folder, step)
        go_on.set()
    assert seen == [1, 7, 6, 3]


def test_an_unexpected_error_ends_nothing(tmp_path: Path) -> None:
    folder, said = RunFolder(tmp_path), list[str]()

    def handle(held: Path, step: int) -> None:
        raise KeyError("odd") if step == 1 else ValueError("odder")

    save(folder, 1)
    with CheckpointWatcher(folder, "work", handle, say=said.append, every=0.01):
        save(folder, 2)
    assert said == ["warning: work of step 1: KeyError: 'odd'", "warning: work of step 2: ValueError: odder"]


def test_a_failed_training_waits_for_nothing(tmp_path: Path) -> None:
    folder, seen = RunFolder(tmp_path), list[int]()
    watcher = CheckpointWatcher(folder, "work", lambda held, step: seen.append(step), say=print, every=60)

    def train() -> None:
        with watcher:
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
