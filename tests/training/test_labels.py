"""Two benchmarks of one kind in one run file: each result has a place of its own, or the file is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.read_results import title_of
from hbt_dist.run_file import load_run
from hbt_dist.training.checkpoints.export import export_checkpoint
from hbt_dist.training.checkpoints.retention import validation_lines
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import losses
from tests.helpers.tensorboard import scalars
from tests.training.conftest import Launch


def own_benchmark(folder: Path, size: int) -> dict[str, Any]:
    """A `jsonl` benchmark of two languages with so many questions in each."""
    folder.mkdir(parents=True)
    texts: dict[str, list[dict[str, Any]]] = {"questions": [], "candidates": []}
    for language in ("en", "fi"):
        for n in range(size):
            words = {"language": language, "text": f"{language} {n} {'abcdefgh'[n % 8]}"}
            texts["questions"].append({"id": f"q{n}", "relevant": [f"p{n}"], **words})
            texts["candidates"].append({"id": f"p{n}", **words})
    for name, rows in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return {"name": "jsonl", "data_dir": str(folder)}


@pytest.mark.parametrize(
    ("benchmark", "label", "title"),
    [
        ({"name": "jsonl", "data_dir": "a/my bench/"}, "my-bench", "my-bench"),
        ({"name": "./x/日本"}, "日本", "日本"),
        ({"name": "/a/b", "variant": "dev"}, "b-dev", "b-dev"),
        ({"name": "beir", "data_dir": "scifact"}, "scifact", "scifact"),
        ({"name": "jsonl", "data_dir": "a", "label": "law"}, "law", "law"),
        (
            {"name": "xquad-r", "data_dir": "/x", "variant": "sentence+context"},
            "xquad-r-sentence-context",
            None,
        ),
        ({"name": "package.module:read", "data_dir": "/x"}, "package.module-read", None),
        ({"name": "mteb:SomeTask"}, "mteb-SomeTask", None),
    ],
)
def test_a_folder_of_the_user_names_its_benchmark(
    benchmark: dict[str, Any], label: str, title: str | None
) -> None:
    settings = BenchmarkSettings.model_validate(benchmark)
    assert (settings.label, settings.title) == (label, title)
    assert settings.model_dump().get("label") == benchmark.get("label")  # a default is not stored
    assert BenchmarkSettings.model_validate(settings.model_dump()) == settings


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_benchmarks_of_one_kind_keep_their_results(launch: Launch, tmp_path: Path) -> None:
    small = own_benchmark(tmp_path / "small", 6)
    large = {**own_benchmark(tmp_path / "large", 9), "label": "jsonl-large"}
    evaluation = {
        "benchmarks": [small, large],
        "checkpoint_benchmarks": [{**small, "label": "mine"}, large],
        "when": ["start", "end"],
    }
    file, output = launch.file(
        tmp_path / "run",
        evaluation=evaluation,
        training__steps=2,
        training__trackers=["tensorboard"],
        training__keep_best="crosslingual",
    )
    launch.finish(file, 1)
    places = {
        "start/small": 6,
        "start/jsonl-large": 9,
        "end/small": 6,
        "end/jsonl-large": 9,
        "step-2/mine": 6,
        "step-2/jsonl-large": 9,
    }
    found = {
        str(path.parent.relative_to(output / "evaluation")): json.loads(path.read_text("utf-8"))
        for path in (output / "evaluation").glob("*/*/results.json")
    }
    assert {name: results["benchmark"]["num_questions"]["en"] for name, results in found.items()} == places
    for name, results in found.items():
        data_dir = tmp_path / ("small" if places[name] == 6 else "large")
        assert results["benchmark"]["fingerprint"] == load_benchmark("jsonl", data_dir).fingerprint
        assert results["benchmark"]["label"] == title_of(results) == Path(name).name
    page = (output / "evaluation" / "end" / "jsonl-large" / "report.md").read_text("utf-8")
    assert "on jsonl-large\n" in page
    lines = validation_lines(RunFolder(output))
    assert [line["benchmark"] for line in lines] == ["mine", "jsonl-large"]
    figures = scalars(output / "tensorboard")
    assert {"validation/mine/crosslingual", "validation/jsonl-large/crosslingual"} <= set(figures)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_start_model_is_evaluated_before_the_first_step(
    launch: Launch, finished: Callable[..., Path], tmp_path: Path
) -> None:
    """By default, on the first of two processes, and without a trace in the training."""
    file, output = launch.file(
        tmp_path / "run",
        evaluation={"benchmarks": [own_benchmark(tmp_path / "small", 6)]},
        deepspeed__config=1,
    )
    launch.finish(file, 2)
    assert losses(output) == losses(finished(1))
    checkpoints = (output / "checkpoints").glob("step-*/*")
    written = (output / "evaluation/start/small/results.json").stat().st_mtime_ns
    assert written < min(file.stat().st_mtime_ns for file in checkpoints)
    assert (output / "evaluation/end/small/results.json").is_file()


def test_two_results_in_one_place_are_refused(launch: Launch, tmp_path: Path) -> None:
    both = [own_benchmark(tmp_path / name / "law", 3) for name in ("a", "b")]
    for key in ("benchmarks", "checkpoint_benchmarks"):
        file, _ = launch.file(tmp_path / key, evaluation={key: both})
        with pytest.raises(UserError, match="one label, 'law'") as refused:
            load_run(str(file))
        message = str(refused.value)
        line = file.read_text("utf-8").splitlines().index("evaluation:") + 1
        assert message.startswith(f"{file} line {line}, evaluation: {key}.0 (jsonl, {tmp_path / 'a/law'})")
        assert f"{key}.1 (jsonl, {tmp_path / 'b/law'})" in message
        assert "label: law-2" in message
    # One benchmark at the end and of every checkpoint lies in two places.
    file, _ = launch.file(
        tmp_path / "c", evaluation={"benchmarks": both[:1], "checkpoint_benchmarks": both[:1]}
    )
    load_run(str(file))


@pytest.mark.slow
def test_a_recorded_run_that_is_refused_today_is_refused_by_its_key(launch: Launch, tmp_path: Path) -> None:
    file, output = launch.file(tmp_path / "run", training__steps=2)
    launch.finish(file, 1)
    recorded = yaml.safe_load((output / "run.yaml").read_text("utf-8"))
    recorded["evaluation"]["benchmarks"] = [{"name": "jsonl", "data_dir": name} for name in ("a/x", "b/x")]
    (output / "run.yaml").write_text(yaml.safe_dump(recorded), "utf-8")
    with pytest.raises(UserError, match="one label") as refused:
        export_checkpoint(output, tmp_path / "model")
    assert refused.value.location.startswith(f"{output / 'run.yaml'} line ")
