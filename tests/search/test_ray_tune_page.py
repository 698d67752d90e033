"""docs/ray_tune.md: its files load, its searcher converges, and the names that it mentions exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ray.tune

import hbt_dist.analysis
from hbt_dist.config.settings import load_settings
from hbt_dist.jobs.search import search_job
from hbt_dist.search.sampler import make_sampler
from hbt_dist.search.settings import SearchFile
from tests.analysis.made_search import write_search

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ray_tune.md"


def test_the_page_is_true(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PAGE.read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, content in re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', text, re.DOTALL):
        Path(name).write_text(content, "utf-8")
    search_job("search.yaml", ["space.batches.alpha={uniform: [0, 0.9]}"], dry_run=True)
    assert "batches.alpha: uniform (0.0, 0.9)" in capsys.readouterr().out
    search = load_settings(SearchFile, Path("search.yaml"))
    sampler = make_sampler(search, [({"batches.alpha": 0.3}, {"crosslingual": 0.7})])
    assert [(sampler.draw() or {})["batches.alpha"] for _ in range(2)] == pytest.approx([0.05, 0.425])
    results = hbt_dist.analysis.load_search(write_search(tmp_path / "made"))
    assert all(len(table) for table in (results.trials, results.points, results.history))
    assert ray.tune.ExperimentAnalysis
    for key in ("max_concurrent", "trial_resources", "trackers", "early_stopping", "seeds"):
        assert key in SearchFile.model_fields
        assert f"`{key}" in text
