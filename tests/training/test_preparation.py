"""What a run is refused for before its first step, because it would train nothing or something else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.models.encoder import Encoder, LoadedEncoder
from hbt_dist.models.settings import ModelSettings, TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training import chunk_size
from hbt_dist.training import train as train_module
from hbt_dist.training.deepspeed.settings import resolve_deepspeed
from hbt_dist.training.preparation import (
    check_similarity,
    check_widths,
    describe_data,
    prepare,
    untrained_values,
)
from hbt_dist.training.teachers import Teachers
from tests.batching.corpora import parallel_corpus
from tests.helpers.products import precision_of_products
from tests.helpers.runs import tiny_run


def run_with(tmp_path: Path, **changes: Any) -> RunFile:
    return RunFile.model_validate(tiny_run(tmp_path, tmp_path, **changes))


def test_a_batch_without_anything_to_contrast_with_is_refused(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"global_batch_size": 1, "alpha": 0.5}
    with pytest.raises(ValidationError, match="paper_eq1 needs hard negatives"):
        run_with(tmp_path, loss__equation="paper_eq1")
    with pytest.raises(ValidationError, match="global_batch_size is 1 without hard negatives"):
        run_with(tmp_path, batches=alone)
    with_negatives = {**alone, "hard_negatives": {"count": 1}}
    run_with(tmp_path, batches=with_negatives, loss__equation="paper_eq1")
    with pytest.raises(ValidationError, match=r"set loss\.hardness\.columns to in_batch"):
        run_with(tmp_path, loss__hardness={})
    run_with(tmp_path, loss__hardness={"columns": "in_batch"})


@pytest.mark.parametrize("count", [0, 1])
def test_a_start_tells_that_hard_negatives_are_not_used(count: int, tmp_path: Path) -> None:
    run = run_with(tmp_path, batches={"global_batch_size": 4, "hard_negatives": {"count": count}})
    corpus = SimpleNamespace(manifest={}, negative_offsets=[0, 2, 5])
    plan = BatchPlan(parallel_corpus(), run.batches, 0)
    model, tokens = SimpleNamespace(notes=()), SimpleNamespace(reports=[])
    parts = {"corpus": corpus, "model": model, "tokens": tokens, "plan": plan, "teachers": Teachers()}
    prepared: Any = SimpleNamespace(**parts)
    told = ["5 hard negatives are not used: batches.hard_negatives.count is 0"]
    lines = [line for line in describe_data(run, prepared) if "hard negatives" in line]
    assert lines == (told if count == 0 else [])


def loaded(kind: type[Any], config: transformers.PretrainedConfig, text: TextSettings) -> LoadedEncoder:
    with torch.device("meta"):
        return LoadedEncoder(Encoder(kind(config), text), None, "a model")


@pytest.mark.parametrize(
    ("similarity", "normalize", "remedy"),
    [
        ("cosine", True, None),
        ("dot", False, None),
        ("cosine", False, r"set loss.similarity: dot, or model.text: \{normalize: true\}"),
        ("dot", True, r"set loss.similarity: cosine, or model.text: \{normalize: false\}"),
    ],
)
def test_training_scores_as_evaluation_does(
    similarity: str, normalize: bool, remedy: str | None, tmp_path: Path
) -> None:
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = loaded(transformers.BertModel, config, TextSettings(normalize=normalize))
    run = run_with(tmp_path, loss__similarity=similarity)
    if remedy is None:
        check_similarity(run, model)
    else:
        with pytest.raises(UserError, match=remedy):
            check_similarity(run, model)


@pytest.mark.parametrize(
    ("text", "widths", "message"),
    [
        ({}, [16, 4], None),
        ({"width": 12}, [12, 4], None),
        ({"width": 12}, [16, 4], "loss.widths.*expected at most 12, .* got 16"),
        ({}, [17], "loss.widths.*expected at most 16, .* got 17"),
        ({"width": 17}, None, "model.text.width.*expected at most 16, .* got 17"),
    ],
)
def test_a_width_above_the_models_is_refused_before_the_data_is_read(
    text: dict[str, Any], widths: list[int] | None, message: str | None, tmp_path: Path
) -> None:
    run = run_with(tmp_path, loss__widths=widths)
    scratch = {"scratch": {"architecture": {"model_type": "bert", "hidden_size": 16}}, "text": text}
    run = run.model_copy(update={"model": ModelSettings(**scratch)})
    if message is None:
        check_widths(run)
        return
    nowhere = run.data.model_copy(update={"sources": []})
    with pytest.raises(UserError, match=f"(?s){message}"):
        prepare(run.model_copy(update={"data": nowhere}))


def test_a_start_reports_values_that_no_width_trains(tmp_path: Path) -> None:
    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = loaded(transformers.BertModel, config, TextSettings())
    (line,) = untrained_values(run_with(tmp_path, loss__widths=[4, 2]), model)
    assert line.startswith("loss.widths trains the first 4 of 8 values of the embeddings, alone: add 8")
    (line,) = untrained_values(run_with(tmp_path, loss__widths=[4, 2], loss__alignment_weight=0.5), model)
    assert "alone (alignment trains the rest): add 8" in line
    for widths in (None, [8, 2]):
        assert untrained_values(run_with(tmp_path, loss__widths=widths), model) == []
    cut = loaded(transformers.BertModel, config, TextSettings(width=4))
    assert untrained_values(run_with(tmp_path, loss__widths=[4, 2]), cut) == []


def test_chunks_are_measured_with_checkpointing_and_never_under_zero_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    text = TextSettings(max_question_tokens=8, max_passage_tokens=8)
    encoder = Encoder(transformers.BertModel(config, add_pooling_layer=False), text)
    checkpointed: list[bool] = []

    find_chunk_rows = chunk_size.find_chunk_rows

    def find(encoder: Encoder, **how: Any) -> int:
        names = (
            "is_activation_checkpointing",
            "is_gradient_checkpointing",
        )  # transformers before 5.1: the second
        checkpointed.append(any(getattr(encoder.backbone, name, False) for name in names))
        return find_chunk_rows(encoder, **how)

    monkeypatch.setattr(chunk_size, "find_chunk_rows", find)
    run = run_with(tmp_path, step__chunk_rows="auto", deepspeed={"gradient_checkpointing": True, "config": 1})
    deepspeed = resolve_deepspeed(run.deepspeed, gradient_clipping=1.0, device_type="cpu")
    found = chunk_size.choose_chunks(run, deepspeed, encoder, text, World.alone())
    assert found.chunk_rows == 24  # all texts of a worker: 12 questions and 12 passages
    assert checkpointed == [True]
    chunk_size.check_auto_chunks(run, 2)
    with pytest.raises(UserError, match="auto is measured on a whole model"):
        chunk_size.check_auto_chunks(run, 3)


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_ranks_multiply_in_full_float32(
    allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1, which makes a process start with "high"."""
    seen: list[str] = []

    def look(*_: Any) -> None:
        seen.append(precision_of_products())
        raise UserError("a run", "ends here")

    monkeypatch.setattr(train_module, "check_settings", look)
    runtime: Any = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    torch.set_float32_matmul_precision(allowed)
    try:
        with pytest.raises(UserError, match="ends here"):
            train_module.train(run_with(tmp_path), runtime)
        assert torch.get_float32_matmul_precision() == allowed
    finally:
        torch.set_float32_matmul_precision("highest")
    assert seen == ["ieee"]


def test_a_width_of_the_evaluation_above_the_models_is_refused_before_the_data_is_read(
    tmp_path: Path,
) -> None:
    run = run_with(tmp_path, evaluation={"scoring": {"widths": [16, "24:int8"]}})
    nowhere = run.data.model_copy(update={"sources": []})
    with pytest.raises(UserError, match=r"scoring.widths: expected widths of at most 16, .* got 24"):
        prepare(run.model_copy(update={"data": nowhere}))
