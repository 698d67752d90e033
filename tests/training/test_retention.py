"""Which checkpoints stay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hbt_dist.training.checkpoints.retention import best_step, removable, validation_lines
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.settings import TrainingSettings


def training(**settings: Any) -> TrainingSettings:
    return TrainingSettings(steps=1000, **settings)


@given(
    st.lists(st.integers(1, 1000), unique=True).map(sorted),
    st.integers(1, 5),
    st.none() | st.integers(1, 50),
)
def test_newest_and_multiples_stay(steps: list[int], keep: int, every: int | None) -> None:
    gone = removable(steps, training(keep_checkpoints=keep, keep_every=every), RunFolder("nowhere"))
    stay = [step for step in steps if step not in gone]
    assert set(steps[-keep:]) <= set(stay)
    assert all(step in steps[-keep:] or (every is not None and step % every == 0) for step in stay)
    assert all(every is None or step % every for step in gone)


def test_best_stays_and_so_does_what_is_not_measured(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    settings = training(keep_checkpoints=1, keep_best="crosslingual")
    assert removable([10, 20, 30, 40], settings, folder) == set()
    lines = [
        {"step": 10, "benchmark": "dev", "crosslingual": 0.2},
        {"step": 10, "benchmark": "other", "crosslingual": 0.9},
        {"step": 20, "benchmark": "dev", "crosslingual": 0.5},
        {"step": 20, "benchmark": "other", "crosslingual": 0.1},
        {"step": 40, "benchmark": "dev", "crosslingual": 0.5},
        {"step": 50, "benchmark": "", "left_out": True},
    ]
    folder.validation.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6', "utf-8")
    assert best_step(validation_lines(folder), "crosslingual") == 20
    assert removable([10, 20, 30, 40, 50, 60], settings, folder) == {10, 40, 50}


def test_a_step_measured_again_counts_once(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    lines = [{"step": 10, "benchmark": "dev", "multilingual": score} for score in (0.9, 0.1)]
    folder.validation.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    assert validation_lines(folder) == [lines[1]]
