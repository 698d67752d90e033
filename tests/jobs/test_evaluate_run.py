"""The evaluation before training leaves the driver's process where there is a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import check_benchmarks, load_benchmark
from hbt_dist.evaluation.read_results import read_results
from hbt_dist.jobs import evaluate_run
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.jobs.evaluate_model import evaluate_model
from hbt_dist.jobs.evaluate_run import evaluate_start_apart, forget_changed
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.export import write_model_folder
from hbt_dist.training.preparation import prepare
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import tiny_run

DEV = {"name": "sample", "variant": "dev", "languages": ["de", "fi"]}


@pytest.fixture
def driver_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes in a GPU and must not evaluate; its children see none and evaluate on the CPU."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluated in the driver's process")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(evaluate_run, "evaluate_run", refuse)


def a_run(folder: Path, **changes: Any) -> RunFile:
    changes = {"evaluation": {"benchmarks": [DEV]}, **changes}
    return RunFile.model_validate(tiny_run(folder / "out", folder / "cache", **changes))


@pytest.mark.slow
@pytest.mark.usefixtures("driver_with_a_gpu")
def test_a_child_process_evaluates(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path)
    evaluate_start_apart(run)
    label = run.evaluation.benchmarks[0].label
    results = json.loads((tmp_path / "out" / "evaluation" / "start" / label / "results.json").read_text())
    assert results["provenance"]["scoring"]["dtype"] == "float32"
    assert results["provenance"]["model"] == str(tmp_path / "out" / "start")
    assert f"evaluate before training: {label}" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("driver_with_a_gpu")
def test_a_mistake_of_the_user_comes_back_as_it_is(tmp_path: Path) -> None:
    run = a_run(tmp_path, evaluation={"benchmarks": [{**DEV, "languages": ["de", "zu"]}]})
    with pytest.raises(UserError, match="zu") as error:
        evaluate_start_apart(run, quiet=True)
    assert error.value.location
    assert error.value.remedy


@pytest.mark.usefixtures("driver_with_a_gpu")
@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_without_a_gpu_nothing_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cpu")
    run = a_run(tmp_path, evaluation={"benchmarks": [DEV], "scoring": {"device": device}})
    with pytest.raises(AssertionError, match="driver's process"):
        evaluate_start_apart(run)


def test_the_start_model_is_measured_again_on_a_changed_benchmark(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    label = run.evaluation.benchmarks[0].label
    data = load_benchmark("sample", variant="dev", languages=["de", "fi"])
    vectors = [np.ones((len(texts), 2)) for texts in (data.question_texts, data.candidate_texts)]
    folder = tmp_path / "out" / "evaluation" / "start" / label
    evaluate_model(vectors, data, output=folder, quiet=True)
    forget_changed(run, check_benchmarks(run.evaluation.benchmarks))
    assert (folder / "results.json").is_file()
    longer = a_run(tmp_path, evaluation={"benchmarks": [{**DEV, "languages": ["de", "en", "fi"]}]})
    assert longer.evaluation.benchmarks[0].label == label
    forget_changed(longer, check_benchmarks(longer.evaluation.benchmarks))
    assert not (folder / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [None, 16])
def test_evaluations_do_not_inherit_the_limits_of_the_training(limit: int | None, tmp_path: Path) -> None:
    """The model reads 32 tokens, is trained on 8, and is measured with 32 before and after."""
    scratch = tiny_run(tmp_path / "scratch", tmp_path / "cache")
    start = prepare(RunFile.model_validate(scratch))
    model = tmp_path / "scratch" / "start"
    run = RunFile.model_validate(
        tiny_run(
            tmp_path / "run",
            tmp_path / "cache",
            model={"name_or_path": str(model), "text": {"max_passage_tokens": 8}},
            evaluation={
                "benchmarks": [{"name": "sample", "languages": ["en", "fi"]}],
                "scoring": {"device": "cpu", "consistency_questions": 0},
                **({} if limit is None else {"max_passage_tokens": limit}),
            },
        )
    )
    assert start.model.text.max_passage_tokens == 32
    trained = load_encoder(model, text=run.model.text)
    assert trained.text.max_passage_tokens == 8
    weights = trained.encoder.state_dict()
    write_model_folder(trained, weights, RunFolder(run.output_dir).model, card="", facts={})
    assert load_encoder(RunFolder(run.output_dir).model).text.max_passage_tokens == 32
    figures = []
    for when in ("start", "end"):
        evaluate_run.evaluate_run(run, when, quiet=True)  # type: ignore[arg-type]
        results = read_results(RunFolder(run.output_dir).evaluation / when / "sample")
        assert results["texts"]["candidates"]["max_tokens"] == (limit or 32)
        assert results["texts"]["questions"]["max_tokens"] == 24
        figures.append((results["means"], results["texts"]))
    assert figures[0] == figures[1]
    expected = evaluate_job(str(model), run.evaluation.benchmarks[0], tmp_path / "alone", quiet=True)
    assert expected
    alone = read_results(tmp_path / "alone")
    assert (alone["texts"] == figures[0][1]) is (limit is None)
