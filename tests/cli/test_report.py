"""`hbt-dist report` of a study's folder: the report again, from what lies there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.cli.main import main
from hbt_dist.search.folder import SearchFolder
from tests.reports.made_pages import write_made_evaluation


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["hbt-dist", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def write_study_folder(root: Path) -> SearchFolder:
    study = {
        "name": "made",
        "output_dir": "elsewhere",  # the folder has moved since
        "question": "Is it made again?",
        "run": "quickstart",
        "methods": {"multilingual": {}, "hybrid": {}},
        "baseline": "multilingual",
        "seeds": [0],
        "benchmarks": [{"name": "sample"}],
    }
    root.mkdir()
    (root / "study.yaml").write_text(yaml.safe_dump(study), "utf-8")
    folder = SearchFolder(root)
    for name in ("multilingual", "hybrid"):
        folder.add_point({"method": name}, "study")
    return folder


@pytest.mark.slow
def test_a_report_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_study_folder(tmp_path / "study")
    assert call(monkeypatch, "report", folder.root) == 2
    assert "'multilingual' has no results yet" in capsys.readouterr().err
    assert not (folder.root / "report").exists()
    for point, noise in enumerate((3.0, 1.0)):
        trial = folder.trial(point, 0, {})
        write_made_evaluation(trial.folder / "evaluation" / "final" / "sample", noise=noise, seed=point)
    assert call(monkeypatch, "report", folder.root) == 0
    assert "report/study.md" in capsys.readouterr().out
    text = (folder.root / "report" / "study.md").read_text("utf-8")
    assert "Is it made again?" in text
    assert "Not known with one seed." in text
    assert "**Does hybrid raise cross-lingual mAP over multilingual?** " in text
    assert "raises it over questions; one seed does not settle it" in text
    assert "nan" not in text
    assert "| hybrid |" in text
    output = tmp_path / "other"
    assert call(monkeypatch, "report", folder.root, "--output", output) == 0
    assert (output / "study.html").is_file()
    seeds = "tables/sample_seeds.csv"
    assert (output / seeds).read_bytes() == (folder.root / "report" / seeds).read_bytes()
    assert "trials/p0001-s0/evaluation/final/sample" in (output / seeds).read_text("utf-8")
    told = yaml.safe_load((folder.root / "study.yaml").read_text("utf-8"))
    told["question"] = "Is it told otherwise?"
    told["primary"] = [{"method": "hybrid", "setting": "multilingual"}]
    other_file = tmp_path / "told.yaml"
    other_file.write_text(yaml.safe_dump(told), "utf-8")
    assert call(monkeypatch, "report", folder.root, "--study", other_file) == 0
    text = (folder.root / "report" / "study.md").read_text("utf-8")
    assert "Is it told otherwise?" in text
    assert "**Does hybrid raise multilingual mAP over multilingual?** " in text
    told["methods"]["hybrid"] = {"overrides": {"batches.alpha": 0.1}}
    other_file.write_text(yaml.safe_dump(told), "utf-8")
    capsys.readouterr()
    assert call(monkeypatch, "report", folder.root, "--study", other_file) == 2
    assert "methods.hybrid: is not how" in " ".join(capsys.readouterr().err.split())
    assert call(monkeypatch, "report", folder.root / "trials", "--study", other_file) == 2
    assert "is not an evaluation (results.json)" in capsys.readouterr().err
    assert call(monkeypatch, "report", folder.root, "--json") == 2
    assert "is a study, but --json needs a search" in capsys.readouterr().err
    assert call(monkeypatch, "report", folder.root, "--baseline", folder.root) == 2
    assert "is a study, but --baseline needs an evaluation" in capsys.readouterr().err
