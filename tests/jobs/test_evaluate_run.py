"""The evaluation before training leaves the driver's process where there is a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.jobs import evaluate_run
from hbt_dist.jobs.evaluate_run import evaluate_start_apart
from hbt_dist.run_file import RunFile
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
    run = a_run(tmp_path, evaluation={"benchmarks": [{**DEV, "languages": ["de", "xx"]}]})
    with pytest.raises(UserError, match="xx") as error:
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
