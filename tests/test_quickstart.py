"""The quickstart's main job, whole: untrained, trained on hybrid batches, and trained on monolingual ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.runs import hbt_dist


def mean_ap(folder: Path) -> dict[str, float]:
    results = json.loads((folder / "results.json").read_text("utf-8"))
    return {setting: means["macro"]["map"] for setting, means in results["means"].items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def hybrid(work: Path) -> Path:
    code, out, err = hbt_dist("train", "quickstart", "workers.address=local", cwd=work, timeout=800)
    assert code == 0, err[-3000:]
    assert "before -> after training" in out
    assert "Traceback" not in err
    assert "arning" not in err, err
    return work / "runs" / "quickstart"


@pytest.fixture(scope="module")
def monolingual(work: Path) -> dict[str, float]:
    settings = ["batches.alpha=1.0", "output_dir=runs/mono", "evaluation.when=[end]", "deepspeed.config=null"]
    code, _, err = hbt_dist("train", "quickstart", *settings, "--launcher", "local", cwd=work, timeout=800)
    assert code == 0, err[-3000:]
    return mean_ap(work / "runs" / "mono" / "evaluation" / "end" / "sample")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_training_pays_in_every_setting(hybrid: Path) -> None:
    before, after = (mean_ap(hybrid / "evaluation" / when / "sample") for when in ("start", "end"))
    assert after["monolingual"] > 2 * before["monolingual"]
    assert after["crosslingual"] > 3 * before["crosslingual"]
    assert after["multilingual"] > 3 * before["multilingual"]


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_hybrid_batches_beat_monolingual_ones_across_languages(
    hybrid: Path, monolingual: dict[str, float]
) -> None:
    after = mean_ap(hybrid / "evaluation" / "end" / "sample")
    assert after["crosslingual"] > 1.5 * monolingual["crosslingual"]
    assert after["multilingual"] > 1.5 * monolingual["multilingual"]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_the_folder_holds_what_is_promised(hybrid: Path) -> None:
    folder = hybrid / "evaluation" / "end" / "sample"
    results: dict[str, Any] = json.loads((folder / "results.json").read_text("utf-8"))
    assert {"seen", "unseen"} == set(results["groups"]["seen"])
    with (folder / "pair_matrix.csv").open(encoding="utf-8") as file:
        header, *rows = list(csv.reader(file))
    assert header[0] == "question_language"
    assert [row[0] for row in rows] == header[1:]
    cells = [float(cell) for row in rows for cell in row[1:]]
    assert len(cells) == 22 * 22
    diagonal = [float(row[i + 1]) for i, row in enumerate(rows)]
    assert sum(diagonal) / 22 == pytest.approx(results["means"]["monolingual"]["macro"]["map"], abs=1e-12)
    assert (folder / "heatmap.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "report.html").read_text("utf-8")
    assert "steps with half of the batches cross-lingual, answers in another language are found" in page

    import transformers

    model = transformers.AutoModel.from_pretrained(hybrid / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(hybrid / "model")
    assert model.config.hidden_size == 96
    assert len(tokenizer) == model.config.vocab_size
    recorded = json.loads((hybrid / "model" / "hbt_dist.json").read_text("utf-8"))
    assert recorded["text"]["pooling"] == "mean"
    assert len(recorded["training"]["languages"]) == 17


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1000)
def test_evaluate_by_itself_gives_the_same_digits(hybrid: Path, work: Path) -> None:
    code, out, err = hbt_dist(
        "evaluate",
        "--model",
        hybrid / "model",
        "--benchmark",
        "sample",
        "--output",
        "again",
        "--json",
        cwd=work,
    )
    assert code == 0, err[-3000:]
    assert json.loads(out)["means"]["crosslingual"]["macro"]["map"] > 0
    ours, theirs = work / "again", hybrid / "evaluation" / "end" / "sample"
    assert (ours / "pair_matrix.csv").read_text() == (theirs / "pair_matrix.csv").read_text()
