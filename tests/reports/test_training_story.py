"""A training in words: read from the files of its run folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.common.errors import UserError
from hbt_dist.reports.evaluation.training import TrainingStory


def write_run(folder: Path, steps: int = 40, **batches: Any) -> Path:
    """The files of a run of `steps` steps that the report reads, with made-up losses."""
    folder.mkdir(parents=True, exist_ok=True)
    run = {
        "batches": {"global_batch_size": 128, "mixing": "per_batch", **batches},
        "data": {"sources": [{"name": "pairs"}]},
        "model": {"name_or_path": None},
        "optimizer": {"learning_rate": 0.003},
        "training": {"steps": steps},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    rows = [
        {"step": i + 1, "loss": (4.0 if i % 2 else 2.0) / (i + 1), "kind": kind, "seconds": 0.5}
        for i, kind in enumerate(["monolingual", "crosslingual"] * (steps // 2))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "log.txt").write_text("corpus: 300 examples, 3 languages (de en fi)\n")
    return folder


@pytest.mark.parametrize(
    ("batches", "sentence", "mixture"),
    [
        ({"alpha": 0.5}, "half of the batches cross-lingual", "half monolingual and half cross-lingual"),
        ({"alpha": 0.7}, "30 % of the batches cross-lingual", "70 % monolingual and 30 % cross-lingual"),
        ({"alpha": 1}, "monolingual batches only", "monolingual batches only"),
        (
            {"alpha": {"schedule": "linear", "start": 1, "end": 0.5, "over_steps": 10}},
            "from 0 % to half of the batches cross-lingual",
            "from 100 % to half monolingual and from 0 % to half cross-lingual",
        ),
        (
            {"mixture": [{"kind": "any_pair", "weight": 1}, {"kind": "monolingual"}], "mixing": "shares"},
            "half any-pair and half monolingual rows in every batch",
            "half any-pair and half monolingual",
        ),
    ],
)
def test_mixture_in_words(tmp_path: Path, batches: Any, sentence: str, mixture: str) -> None:
    story = TrainingStory.of(write_run(tmp_path / "run", **batches))
    assert story is not None
    assert story.sentence == f"40 steps with {sentence}"
    assert mixture in story.facts()["batches"]
    assert story.facts()["data"] == "300 examples, 3 languages (German, English, Finnish)"
    assert story.facts()["steps"] == "40, in 20 s"


def test_the_evaluation_of_a_trained_model_knows_its_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", alpha=0.5)
    stories = [TrainingStory.of(run / "evaluation" / when / "sample") for when in ("end", "start")]
    assert stories[0] is not None
    assert stories[1] is None  # the start model was not trained
    assert TrainingStory.of(tmp_path) is None
    (tmp_path / "broken").mkdir()
    for name, text in (("run.yaml", "batches: {"), ("metrics.jsonl", "")):
        (tmp_path / "broken" / name).write_text(text)
    with pytest.raises(UserError, match=r"run\.yaml"):
        TrainingStory.of(tmp_path / "broken")
    means = [sum(scale / (i + 1) for i in part) / 2 for scale, part in ((4, (1, 3)), (4, (37, 39)))]
    assert f"cross-lingual batches from {means[0]:.3f} to {means[1]:.3f}" in stories[0].loss_finding()
    assert stories[0].loss_picture().startswith(b"\x89PNG")
