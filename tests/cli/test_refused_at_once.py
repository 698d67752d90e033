"""What people type: keys with dots, a run's folder, a folder that cannot be written, no command at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from tests.helpers.command_line import call_main

SEARCH = {
    "name": "s",
    "run": "quickstart",
    "overrides": ["evaluation.benchmarks.0.variant=test"],
    "space": {"batches.alpha": {"range": [0, 1, 0.25]}},
    "benchmark": {"name": "sample", "variant": "dev"},
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *arguments: call_main(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    benchmark = load_benchmark("sample", variant="dev", languages=["en", "fi"])
    rng = np.random.default_rng(0)
    questions, candidates = (
        rng.standard_normal((count, 8)) for count in (benchmark.num_questions, benchmark.num_candidates)
    )
    settings = EvaluationSettings(device="cpu", consistency_questions=0)
    made = evaluate(benchmark, questions, candidates, settings=settings)
    return write_evaluation(made, tmp_path_factory.mktemp("made") / "sample")


def test_no_command_prints_the_overview(command: Any) -> None:
    code, out, _ = command()
    assert code == 2
    assert out == command("--help")[1]
    assert "  evaluate  score a model" in out


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("space.batches.alpha={choice: [0, 1]}", ["  batches.alpha: choice [0, 1]"]),
        ("space.batches.alpha.range=[0, 1, 0.5]", ["  batches.alpha: range (0.0, 1.0, 0.5)"]),
        (
            "space.loss.temperature={choice: [0.1, 0.2]}",
            ["  batches.alpha: range (0.0, 1.0, 0.25)", "  loss.temperature: choice [0.1, 0.2]"],
        ),
    ],
)
def test_keys_of_the_space_have_dots(command: Any, tmp_path: Path, override: str, shown: list[str]) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**SEARCH, "output_dir": str(tmp_path / "out")}))
    code, out, err = command("search", file, "--dry-run", override)
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith(("  batches.", "  loss."))] == shown


def test_a_mistake_below_the_space_is_placed(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump({**SEARCH, "output_dir": str(tmp_path / "out")}))
    override = "space.batches.alpha={choise: [0, 1]}"
    code, _, err = command("search", file, "--dry-run", override)
    assert code == 2
    assert f"override {override!r}, space.batches.alpha.choise: unknown key" in err
    assert "did you mean 'choice'?" in err


@pytest.mark.parametrize("above", ["a file", "/proc"])
def test_a_search_is_refused_where_nothing_can_be_written(command: Any, tmp_path: Path, above: str) -> None:
    (tmp_path / "a file").write_text("x")
    file, target = tmp_path / "s.yaml", tmp_path / above / "out"
    file.write_text(yaml.safe_dump({**SEARCH, "output_dir": str(target)}))
    code, out, err = command("search", file)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {target}: cannot be written: ")
    assert "choose another output_dir" in err


def test_a_dry_run_looks_for_the_model(command: Any, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    overrides = [*SEARCH["overrides"], "model={name_or_path: ./absent}"]
    file.write_text(yaml.safe_dump({**SEARCH, "overrides": overrides, "output_dir": str(tmp_path / "out")}))
    code, out, err = command("search", file, "--dry-run")
    assert (code, out) == (2, "")
    assert err.startswith("error: model.name_or_path ./absent: no such model folder\n")


@pytest.mark.parametrize("trained", ["end", "final"])  # of a run, of a trial
def test_a_run_is_compared_by_its_evaluation(
    command: Any, evaluation: Path, tmp_path: Path, trained: str
) -> None:
    for when in ("start", trained):
        shutil.copytree(evaluation, tmp_path / "run" / "evaluation" / when / "sample-dev")
    code, out, err = command("compare", evaluation, "--baseline", tmp_path / "run", "--json")
    assert (code, err) == (0, "")
    folders = json.loads(out)["folders"]
    assert [str(tmp_path / f"run/evaluation/{trained}/sample-dev")] in folders.values()
    code, out, err = command("compare", tmp_path / "run")  # with its start model
    assert (code, err) == (0, "")
    assert out.splitlines()[2].split()[:4] == ["run", "(start)", "run", "change"]
    code, _, err = command("compare", evaluation)
    assert (code, err.count("\n")) == (2, 2)
    assert "has no evaluation before a training, expected the folder of a run" in err


def test_a_run_with_two_evaluations_or_none_is_refused(
    command: Any, evaluation: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for label in ("a", "b"):
        shutil.copytree(evaluation, run / "evaluation" / "final" / label)
    code, _, err = command("compare", evaluation, "--baseline", run)
    assert code == 2
    problem = "is the folder of a run: expected one evaluation of its trained model"
    assert err == f"error: {run}: {problem}, got 2\n       choose one with --benchmark: a, b\n"
    code, _, err = command("compare", evaluation, "--baseline", run, "--benchmark", "c")
    assert code == 2
    assert err == f"error: {run}: {problem} on c, got 0\n       choose one with --benchmark: a, b\n"
    code, out, err = command("compare", run, "--baseline", run, "--benchmark", "a", "--json")
    assert (code, err) == (0, "")
    assert list(json.loads(out)["folders"].values()) == [[f"{run}/evaluation/final/a"]] * 2
    code, _, err = command("compare", run / "evaluation/final/a", "--baseline", tmp_path)
    assert code == 2
    assert err == (
        f"error: {tmp_path}: is not an evaluation folder (has no results.json)\n"
        "       name a folder of `evaluate`\n"
    )


@pytest.mark.parametrize("above", ["a file", "/proc"])  # nobody can write to /proc, root included
@pytest.mark.parametrize("kind", ["export", "evaluate"])
def test_an_unusable_folder_is_refused_before_the_work(
    command: Any, tmp_path: Path, kind: str, above: str
) -> None:
    """Neither the checkpoint nor the model exists: the folder is looked at first."""
    (tmp_path / "a file").write_text("x")
    target = tmp_path / above / "out" / "deep"
    arguments = {
        "export": ["export", tmp_path / "absent", "--to", target],
        "evaluate": ["evaluate", "--model", "./absent", "--benchmark", "sample", "--output", target],
    }
    code, out, err = command(*arguments[kind])
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {target}: cannot be written: ")
    assert "name a folder you can write" in err


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--benchmark", "jsnl"], "did you mean jsonl?"),
        (["--benchmark", "sample", "--languages", "englich"], "did you mean en (English)?"),
    ],
)
def test_misspelled_benchmarks_and_languages(
    command: Any, tmp_path: Path, options: list[str], hint: str
) -> None:
    code, out, err = command("evaluate", "--model", "absent", *options, "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert hint in err
