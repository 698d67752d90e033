"""`hbt-dist files`: what comes with the package is listed, copied, and never written over."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hbt_dist.cli.files import FOLDERS, copy_files
from hbt_dist.cli.main import app
from hbt_dist.common.errors import UserError
from tests.helpers.ranks import ROOT


def test_all_folders_are_listed() -> None:
    listed = CliRunner().invoke(app, ["files"])
    assert listed.exit_code == 0
    for name in ("quickstart.yaml", "zero2_bf16.json", "on_premises.yaml", "search/alpha.yaml"):
        assert f"  {name}\n" in listed.output


def test_copies_are_files_of_their_own(tmp_path: Path) -> None:
    copied = CliRunner().invoke(app, ["files", "--to", str(tmp_path / "mine")])
    assert copied.exit_code == 0
    assert {path.name for path in (tmp_path / "mine").iterdir()} == set(FOLDERS)
    assert not any(path.is_symlink() for path in (tmp_path / "mine").rglob("*"))
    ours = tmp_path / "mine" / "ray_configs" / "on_premises.yaml"
    assert ours.read_bytes() == (ROOT / "ray_configs" / "on_premises.yaml").read_bytes()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "ray_configs").mkdir()
    with pytest.raises(UserError, match="exists already"):
        copy_files(ROOT / "hbt_dist", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ray_configs"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be written"):
        copy_files(ROOT / "hbt_dist", tmp_path / "file" / "below")
