"""Search files: what is refused before the first trial."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import set_value
from hbt_dist.jobs.search import load_search_file, search_job
from hbt_dist.search.space import Base
from tests.evaluation.test_read_results import monolingual_benchmark
from tests.helpers.searches import search_of_quickstart

ROOT = Path(__file__).resolve().parents[2]


def write(folder: Path, **changes: Any) -> str:
    return str(search_of_quickstart(folder, **changes))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"space": {"batches.alpa": {"range": [0, 1, 0.5]}}}, "did you mean 'alpha'"),
        (
            {"space": {"batches.alpha": {"uniform": [1, 0]}}, "sampler": {"kind": "random", "points": 2}},
            "expected lowest < highest",
        ),
        ({"space": {"batches.alpha": {"range": [0, 2, 0.5]}}}, "less than or equal to 1"),
        ({"space": {"batches.alpha": {"range": [1, 0, 0.5]}}}, "first <= last"),
        ({"space": {"batches.alpha": {"uniform": [0, 1]}}}, "continuous"),
        ({"space": {"batches.alpha": {"choice": [0.5], "uniform": [0, 1]}}}, "expected one of choice"),
        ({"space": {"batches.alpha": {"chioce": [0.5]}}}, "unknown key"),
        ({"space": {"batches.alpha": {"log_uniform": [0, 1]}}}, "above 0"),
        ({"space": {"batches.mixture": {"simplex": ["monolingual", "odd"]}}}, "batch kinds"),
        ({"space": {"batches.languages": {"simplex": ["monolingual", "any_pair"]}}}, "simplex is for"),
        ({"space": {"batches.global_batch_size": {"choice": [128, 127]}}}, "127"),
        ({"space": {"optimizer.learning_rate": {"choice": ["high"]}}}, "optimizer.learning_rate"),
        ({"space": {"data.sources.7.path": {"choice": ["x"]}}}, "does not exist"),
        ({"space": {"seed": {"choice": [1, 2]}}}, "list seeds in `seeds`"),
        ({"space": {}}, "space"),
        ({"seeds": [1, 1]}, "each seed once"),
        ({"sampler": {"kind": "optuna"}}, "points"),
        ({"sampler": {"kind": "grid", "points": 3}}, "points"),
        ({"objectives": ["speed"]}, "objectives"),
        ({"warm_start": ["elsewhere"]}, "optuna"),
        ({"early_stopping": {"first_step": 5}, "evaluate_checkpoints": False}, "evaluate_checkpoints"),
        (
            {"early_stopping": {"first_step": 5, "metric": "monolingual"}, "objectives": ["crosslingual"]},
            "none of the objectives",
        ),
        ({"trial_resources": {"CPU": 0}}, "positive"),
        ({"test_benchmarks": [{"name": "sample", "variant": "dev"}]}, "one label, 'sample-dev'"),
        ({"run": "nowhere.yaml"}, "no such run file"),
        ({"run": "quickstart", "overrides": ["batches.alhpa=1"]}, "unknown key"),
    ],
)
def test_refused_with_one_message(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(UserError) as refused:
        load_search_file(file)
    assert expected in str(refused.value)
    assert not (tmp_path / "search").exists()


def test_a_development_benchmark_must_not_share_questions_with_a_test_benchmark(tmp_path: Path) -> None:
    file = write(tmp_path, benchmark={"name": "sample", "variant": "test"})
    with pytest.raises(UserError, match="shares 1,320 questions") as refused:
        search_job(file, dry_run=True)
    assert "sample-test" in str(refused.value)


def test_a_benchmark_of_one_language_has_no_crosslingual_objective(tmp_path: Path) -> None:
    benchmark = {"name": "sample", "variant": "dev", "languages": ["en"]}
    with pytest.raises(UserError, match="gives no crosslingual"):
        search_job(write(tmp_path, benchmark=benchmark), dry_run=True)
    search_job(write(tmp_path, benchmark=benchmark, objectives=["monolingual"]), dry_run=True)


def test_a_missing_benchmark_is_found_first(tmp_path: Path) -> None:
    file = write(tmp_path, benchmark={"name": "xquad-r", "data_dir": str(tmp_path / "none")})
    with pytest.raises(UserError, match="none"):
        search_job(file, dry_run=True)


def test_a_search_is_not_continued_over_another_base_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file name, edited meanwhile: finished trials would stand beside trials of another run."""
    monkeypatch.setattr("hbt_dist.orchestration.tune.run_trials", lambda *_, **__: None)
    base = tmp_path / "base.yaml"
    run = yaml.safe_load((ROOT / "hbt_dist" / "run_files" / "quickstart.yaml").read_text("utf-8"))

    def search(**changes: Any) -> None:
        edited = copy.deepcopy(run)
        for key, value in changes.items():
            set_value(edited, key.replace("__", "."), value, "here")
        base.write_text(yaml.safe_dump(edited), "utf-8")
        search_job(write(tmp_path, run=str(base)), quiet=True)

    search()
    search(  # none of these changes a figure
        batches__alpha=0.1,
        workers__num_workers=1,
        training__log_every=7,
        evaluation__scoring={"num_threads": 1},
        data__cache_dir=str(tmp_path / "elsewhere"),
    )
    written = (tmp_path / "search" / "base.yaml").read_text("utf-8")
    for changes, found in (
        ({"optimizer__learning_rate": 0.5}, "optimizer.learning_rate: .* there, 0.5 now"),
        ({"training__steps": 7}, "training.steps: .* there, 7 now"),
        ({"evaluation__scoring": {"dtype": "bfloat16"}}, "evaluation.scoring.dtype"),
    ):
        with pytest.raises(UserError, match=f"another base run .{found}"):
            search(**changes)
    assert (tmp_path / "search" / "base.yaml").read_text("utf-8") == written


@pytest.mark.parametrize(
    "file", sorted((ROOT / "ray_configs" / "search").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_searches_are_sound(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Run me with:" in file.read_text("utf-8")
    search_job(str(file), [f"output_dir={tmp_path / 'out'}"], dry_run=True)
    assert "trials" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_alpha_and_mixture_take_each_other_s_place() -> None:
    base = Base.load("quickstart", ())
    assert base.data["batches"]["alpha"] == 0.5
    run = base.run({"batches.mixture": {"monolingual": 0.25, "any_pair": 0.75}}, location="test")
    assert run.batches.alpha is None
    assert run.batches.mixture is not None
    assert [entry.kind for entry in run.batches.mixture] == ["monolingual", "any_pair"]
    assert base.run({}, location="test").batches.alpha == 0.5


def test_a_benchmark_that_never_crosses_languages_gives_no_objective_of_that(tmp_path: Path) -> None:
    data = tmp_path / "data"
    monolingual_benchmark(data)
    benchmark = {"name": "jsonl", "data_dir": str(data)}
    with pytest.raises(UserError, match="gives no crosslingual"):
        search_job(write(tmp_path, benchmark=benchmark), dry_run=True)
    with pytest.raises(UserError, match="gives no rank_distance"):
        search_job(write(tmp_path, benchmark=benchmark, objectives=["rank_distance"]), dry_run=True)
    search_job(write(tmp_path, benchmark=benchmark, objectives=["multilingual"]), dry_run=True)
