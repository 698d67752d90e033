"""The main job on public data: train with two Ray workers on SQuAD en-fi, measure on XQuAD-R and MLQA-R."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import hbt_dist, losses, tiny_run, write_run


@pytest.fixture(scope="module")
def trained(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("real")
    run = tiny_run(work / "out", work / "cache")
    source = {
        "name": "squad",
        "format": "squad-parallel",
        "path": str(shared_data / "squad-en-fi"),
        "limit": 3000,
    }
    run["data"]["sources"] = [source]
    run["batches"]["global_batch_size"] = 32
    run["training"] |= {"steps": 30, "checkpoint_every": 30}
    run["evaluation"] = {
        "benchmarks": [
            {"name": "xquad-r", "data_dir": str(shared_data / "xquad-r")},
            {"name": "mlqa-r", "data_dir": str(shared_data / "mlqa-r")},
        ]
    }
    code, _, err = hbt_dist("train", write_run(work / "run.yaml", run), cwd=work, timeout=800)
    assert code == 0, err[-3000:]
    return work / "out"


def matrix_of(folder: Path) -> tuple[list[str], list[list[float]], dict[str, Any]]:
    with (folder / "pair_matrix.csv").open(encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    results = json.loads((folder / "results.json").read_text("utf-8"))
    return header[1:], [[float(cell) for cell in row[1:]] for row in rows], results


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_the_loss_falls(trained: Path) -> None:
    values = losses(trained)
    assert sum(values[-5:]) < 0.98 * sum(values[:5])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_xquad_r_is_an_eleven_by_eleven_matrix(trained: Path) -> None:
    languages, cells, results = matrix_of(trained / "evaluation" / "end" / "xquad-r")
    assert languages == ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    assert [len(row) for row in cells] == [11] * 11
    assert results["benchmark"]["num_questions"]["total"] == 13_090
    assert results["benchmark"]["num_candidates"]["total"] == 13_014


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_mlqa_r_is_a_seven_by_seven_matrix(trained: Path) -> None:
    languages, _, results = matrix_of(trained / "evaluation" / "end" / "mlqa-r")
    assert languages == ["ar", "de", "en", "es", "hi", "vi", "zh"]
    assert results["benchmark"]["num_questions"]["total"] == 4_199
    assert results["benchmark"]["num_candidates"]["total"] == 20_534
    counts = results["pair_matrix"]["num_questions"]
    assert counts[0] == [517, 207, 517, 161, 186, 163, 188]
    assert [counts[i][i] for i in range(7)] == [517, 512, 1148, 500, 507, 511, 504]
