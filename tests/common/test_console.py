"""Progress in a log: a line now and then, a last one how far it came, nothing when it is hushed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_dist.common import console as progress
from hbt_dist.common.console import Progress, counted, duration, hush, note
from hbt_dist.training.metrics_log import outcome
from hbt_dist.training.run_folder import RunFolder


def test_a_log_ends_with_the_last_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    with Progress(30, "train", "step") as bar:
        for step in range(30):
            bar.update(note=f"loss {step}")
    assert capsys.readouterr().err.startswith("train: 30 of 30 steps, loss 29, ")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with Progress(2, "train", "step") as bar:
        bar.update(2)
    assert len(capsys.readouterr().err.splitlines()) == 1, "the last step is not printed twice"


def test_a_log_can_get_its_first_line_early(capsys: pytest.CaptureFixture[str]) -> None:
    for first_seconds, lines in ((0.0, 1), (100.0, 0), (None, 0)):
        with Progress(30, "sorting", "row", first_seconds=first_seconds) as bar:
            bar.update(10)
            bar.update(10)
        assert len(capsys.readouterr().err.splitlines()) == lines


def test_hushed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    hush()
    with Progress(2, "train", "step") as bar:
        bar.say("corpus: 4 examples")
        bar.update(2)
    note("training a tokenizer")
    assert capsys.readouterr().err == ""


def test_words() -> None:
    assert [counted(n, "worker") for n in (1, 2, 1000)] == ["1 worker", "2 workers", "1,000 workers"]
    times = [duration(seconds) for seconds in (0.31, 9.96, 33.7, 61, 3600, 7500)]
    assert times == ["0.3 s", "10 s", "34 s", "1 min 1 s", "1 h 0 min", "2 h 5 min"]


def test_the_outcome_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "runs" / "mine")
    assert outcome(folder, 30).steps == 0
    folder.root.mkdir(parents=True)
    folder.metrics.write_text(
        '{"step": 1, "loss": 2.5, "seconds": 20}\n{"step": 2, "loss": 1.5468, "seconds": 14}\n{"ste'
    )
    assert not outcome(folder, 2).finished, "there is no model yet"
    folder.model.mkdir()
    assert not outcome(folder, 3).finished
    assert str(outcome(folder, 2)) == "trained 2 steps in 34 s, last loss 1.547; model: runs/mine/model"


def test_slow_work_shows_seconds_per_unit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    now = iter([0.0, 0.0, 33.0, 33.0, 33.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    bar = Progress(100, "train", "step")
    bar.update(10)
    assert capsys.readouterr().err == "train: 10 of 100 steps, 3.3 s per step, 4 min 57 s left\n"
