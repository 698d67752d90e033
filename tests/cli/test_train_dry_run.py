"""`hbt-dist train --dry-run`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.command_line import call_main
from tests.jobs.test_memory import CONFIGS


def test_memory_is_printed_and_no_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["Qwen3-Embedding-8B"]))
    arguments = ["train", "decoder_lora", "model.name_or_path=.", "--dry-run", "--gpu-memory", "24"]
    code, out, err = call_main(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert "1,000 steps x 2048 rows" in out
    assert "epochs unknown, the data cannot be read: " in out
    assert "of 24.0 GiB" in out
    assert "does not fit" not in out
    assert not (tmp_path / "runs").exists()
