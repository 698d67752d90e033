"""Scores of a teacher at the start: missing, on a different scale than the temperature, or fitting."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.term_settings import DistillationSettings
from hbt_dist.data.cache import MANIFEST
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.teacher_scores import describe_scores, relative_entropy
from tests.batching.corpora import parallel_corpus
from tests.helpers.runs import tiny_run


def scored(low: float, high: float, unscored: float = 0.0) -> Corpus:
    corpus = parallel_corpus(500, 2, 2, most_negatives=8)
    random = np.random.default_rng(0)
    negatives = random.uniform(low, (low + high) / 2, len(corpus.negatives)).astype(np.float32)
    negatives[random.random(len(negatives)) < unscored] = np.nan
    return replace(
        corpus,
        example_score=random.uniform((low + high) / 2, high, corpus.num_examples).astype(np.float32),
        negative_score=negatives,
    )


def lines(corpus: Corpus, temperature: float) -> list[str]:
    said = describe_scores(DistillationSettings(temperature=temperature), corpus)
    return [line for line in said if "temperature" in line]


@pytest.mark.parametrize(
    ("low", "high", "temperature", "target"),
    [(0.0, 1.0, 1.0, "nearly flat"), (-12.0, 12.0, 0.05, "nearly one-hot")],
)
def test_a_temperature_on_a_different_scale_is_reported_with_a_better_one(
    low: float, high: float, temperature: float, target: str
) -> None:
    corpus = scored(low, high)
    (line,) = lines(corpus, temperature)
    assert f"loss.distillation.temperature {temperature:g}: the targets are {target}" in line
    better = float(line.rpartition(" ")[2])
    assert lines(corpus, better) == []
    # The same in units of a hundred times: the suggestion follows the scores.
    (scaled,) = lines(scored(100 * low, 100 * high), 100 * temperature)
    assert float(scaled.rpartition(" ")[2]) == pytest.approx(100 * better, rel=0.06)


def test_entropy_is_that_of_torch() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 4))
    distribution = torch.distributions.Categorical(logits=torch.as_tensor(scores / 0.3))
    want = float((distribution.entropy() / np.log(4)).mean())
    padded = np.concatenate([scores, np.full((7, 2), np.nan)], axis=1)
    assert relative_entropy(padded, 0.3) == pytest.approx(want, rel=1e-12)


def test_equal_scores_have_no_temperature() -> None:
    corpus = scored(0.0, 1.0)
    equal = {
        "example_score": np.ones_like(corpus.example_score),
        "negative_score": np.ones_like(corpus.negative_score),
    }
    (line,) = lines(replace(corpus, **equal), 1.0)  # type: ignore[arg-type]
    assert line.endswith("every candidate of a question has the same score: check the teacher")


def test_examples_without_two_scores_are_counted() -> None:
    said = describe_scores(DistillationSettings(temperature=0.1), scored(0.0, 1.0, unscored=0.7))
    assert any("of the examples lack two scores and teach InfoNCE only" in line for line in said)
    assert describe_scores(None, parallel_corpus(10, 1, 2)) == []


def test_a_run_without_hard_negatives_has_nothing_to_distil(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hard_negatives\.count is 0: set it to 1 or more"):
        RunFile.model_validate(tiny_run(tmp_path, tmp_path, loss__distillation={}))


def test_data_without_scores_are_refused(tmp_path: Path) -> None:
    row = {
        "question": {"en": "q"},
        "passage": {"en": "p"},
        "score": 1.0,
        "negatives": [{"text": {"en": "n"}}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": "1", **row}) + "\n")
    source = {"name": "a", "format": "jsonl", "path": str(tmp_path / "a.jsonl")}
    corpus = build_corpus(DataSettings.model_validate({"sources": [source]}), tmp_path / "cache")
    with pytest.raises(UserError, match="got no example with two scores") as error:
        describe_scores(DistillationSettings(), corpus)
    assert "older version" not in error.value.remedy
    manifest = json.loads((corpus.folder / MANIFEST).read_text())
    del manifest["optional_columns"]
    (corpus.folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="an older version converted these data without scores: delete"):
        describe_scores(DistillationSettings(), Corpus.open(corpus.folder))
