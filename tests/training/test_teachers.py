"""Vectors of frozen models: those of an encoder, from files that ranks share, for the rows of each batch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hbt_dist.batching.collate import collate, has_text
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training import teachers
from hbt_dist.training.preparation import prepare
from hbt_dist.training.teachers import compute_vectors
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import losses, tiny_run, write_run
from tests.training.conftest import Launch
from tests.training.teacher_bodies import stored

TARGETS = {"teacher": "english", "language": "en", "weight": 0.8}


@pytest.fixture(scope="module")
def teacher(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights of its own, and the width and tokenizer of the start model."""
    folder = tmp_path_factory.mktemp("teacher") / "model"
    shutil.copytree(launch.start_model, folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(4)
    changed = {name: value + torch.randn(value.shape, generator=generator) for name, value in weights.items()}
    save_file(changed, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def sparse(tmp_path: Path) -> list[dict[str, Any]]:
    """20 questions in English and Finnish and 10 in Finnish, each with a passage and a negative."""
    sources = []
    for name, numbers, languages in (("both", range(20), ["en", "fi"]), ("finnish", range(20, 30), ["fi"])):
        lines = []
        for number in numbers:
            passage = {"fi": f"Talo {number} on kadulla.", "en": f"House {number} is in a street."}
            question = {"fi": f"Missä talo {number} on?", "en": f"Where is house {number}?"}
            negative = {"fi": f"Kissa {number}.", "en": f"Cat {number}."}
            texts = {"question": question, "passage": passage, "negatives": [{"text": negative}]}
            lines.append(json.dumps({"id": str(number), **texts}, ensure_ascii=False))
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        sources.append({"name": name, "format": "jsonl", "path": str(path), "languages": languages})
    return sources


def run_with(launch: Launch, tmp_path: Path, teacher: Path, **changes: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "model": {"name_or_path": str(launch.start_model)},
        "teachers": {"english": {"name_or_path": str(teacher)}},
        "loss": {"targets": TARGETS, "info_nce_weight": 0.2},
        **changes,
    }
    return tiny_run(tmp_path / "out", launch.cache, **settings)


def test_vectors_are_those_of_the_teacher(
    launch: Launch,
    teacher: Path,
    sparse: list[dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By row and language, with its prefix; the second time no model is loaded; and targets of a batch."""
    text = {"question_prefix": "{language}: ", "max_question_tokens": 12}
    guide = {"margin": 0.0, "guide": "english"}
    run = RunFile.model_validate(
        run_with(
            launch,
            tmp_path,
            teacher,
            data={"sources": sparse, "cache_dir": str(tmp_path)},
            batches={"global_batch_size": 6, "mixture": {"any_pair": 1}, "hard_negatives": {"count": 1}},
            teachers={"english": {"name_or_path": str(teacher), "text": text, "storage": "float16"}},
            loss={"targets": TARGETS, "false_negatives": guide},
        )
    )
    monkeypatch.setattr(teachers, "ROWS_PER_FILE", 7)
    corpus = build_corpus(run.data, tmp_path)
    plan = BatchPlan(corpus, run.batches, 0)
    first = compute_vectors(run, plan, World.alone())
    with monkeypatch.context() as nothing_loads:
        nothing_loads.setattr(teachers, "load_encoder", None)
        again = compute_vectors(run, plan, World.alone())
    assert first.digests == again.digests
    assert f"teachers.english: {20 + 30 + 40 + 60} vectors of 16 values, 32 bytes each" in first.notes[0]
    for language, name in enumerate(corpus.languages):
        prefix = {"en": "English: ", "fi": "Finnish: "}[name]
        loaded = load_encoder(teacher, text={**text, "question_prefix": prefix}, quiet=True)
        rows = np.arange(corpus.num_examples)[::-1]
        rows = rows[[corpus.question_texts(language, row, row + 1)[0] is not None for row in rows]]
        want = encode_texts(loaded, [corpus.question_text(row, language) for row in rows], "question")
        got = again.readers["english"].read("question", rows, np.full(len(rows), language))
        np.testing.assert_allclose(got, want[:], atol=1e-3)  # float16

    prepared = prepare(run)
    local = again.add_to(collate(prepared.plan.batch(0), corpus, prepared.tokens), corpus, run.loss)
    english = corpus.language_index("en")
    rows_of = {
        "question": local.batch.example,
        "passage": np.concatenate(
            [corpus.example_passage[local.batch.example], local.batch.negative.ravel()]
        ),
    }
    for role, target in local.targets.items():
        np.testing.assert_array_equal(target.present_k, has_text(corpus, role, rows_of[role], english))
        assert 0 < target.present_k.sum() < len(target.present_k)
        rows = rows_of[role][target.present_k]
        want = again.readers["english"].read(role, rows, np.full(len(rows), english))
        np.testing.assert_array_equal(target.vectors_kE[target.present_k], want)
        assert not target.vectors_kE[~target.present_k].any()
    assert local.frozen["english"].passages_NE is not None


def test_ranks_share_the_files_and_give_the_same_digits(
    launch: Launch, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three ranks complete what was interrupted like one process; separate disks and models are refused."""
    run = run_with(launch, tmp_path, teacher)
    monkeypatch.setattr(teachers, "ROWS_PER_FILE", 100)
    want = stored(World.alone(), run, str(tmp_path / "one"))
    assert len(want) == 2 * 8  # 745 questions and passages, in English alone
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    for file in sorted((tmp_path / "two").rglob("rows-*.npy"))[1::3]:
        file.unlink()
    found = run_ranks(3, "tests.training.teacher_bodies:everything", run=run, folder=str(tmp_path / "two"))
    for rank in found:
        assert rank["files"] == want
        assert "is a different model on rank 1 than on rank 0" in rank["different"]
        assert rank["encoded"] == []  # refused before it encodes
        assert "is not the same folder for all workers: rank 1 on" in rank["separate"]
        assert "all workers share the vectors of teachers there: name a folder" in rank["separate"]


@pytest.mark.slow
def test_training_towards_a_teacher_continues_and_refuses_another_teacher(
    launch: Launch, teacher: Path, tmp_path: Path
) -> None:
    """A stopped run ends as an uninterrupted run of one process more; a changed teacher is refused."""
    weights = {"schedule": "steps", "values": {0: 0.0, 3: 0.2}}
    changes: dict[str, Any] = {
        "teachers": {"english": {"name_or_path": str(teacher)}},
        "loss": {"targets": TARGETS, "info_nce_weight": weights},
        "deepspeed__config": 1,
        "model": {"name_or_path": str(launch.start_model)},
    }
    whole, whole_out = file_of(launch, tmp_path / "whole", **changes)
    launch.finish(whole, 2)
    figures = [json.loads(line) for line in (whole_out / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert figures[-1]["targets"] < figures[0]["targets"]
    assert figures[0]["loss"] == pytest.approx(0.8 * figures[0]["targets"])
    assert figures[3]["loss"] == pytest.approx(0.8 * figures[3]["targets"] + 0.2 * figures[3]["info_nce"])
    part, part_out = file_of(
        launch, tmp_path / "part", **changes, training__steps=4, training__schedule_steps=6
    )
    launch.finish(part, 2)
    file_of(launch, tmp_path / "part", **changes)
    weights_file = teacher / "model.safetensors"
    original = weights_file.read_bytes()
    try:
        save_file({k: v * 1.01 for k, v in load_file(weights_file).items()}, weights_file, {"format": "pt"})
        group = launch.start(part, 2)
        assert group.wait() == [2, 2]
        assert (
            "is not the model, or has not the precision, that the checkpoint of step 4 began with"
            in group.error()
        )
    finally:
        weights_file.write_bytes(original)
    launch.finish(part, 2)
    assert losses(part_out) == losses(whole_out)


def file_of(launch: Launch, folder: Path, **changes: Any) -> tuple[Path, Path]:
    folder.mkdir(exist_ok=True)
    changes.setdefault("training__checkpoint_every", 2)
    return write_run(folder / "run.yaml", tiny_run(folder / "out", launch.cache, **changes)), folder / "out"


BAD: dict[str, tuple[Callable[[dict[str, Any], Path], None], str]] = {
    "unknown name": (
        lambda run, _: run["loss"]["targets"].update(teacher="englsh"),
        "loss.targets.teacher names englsh, which `teachers` lacks: did you mean english?",
    ),
    "no teachers": (
        lambda run, _: run.pop("teachers"),
        "loss.targets.teacher names english, which `teachers` lacks: add teachers.english.name_or_path",
    ),
    "nothing trained": (
        lambda run, _: run["loss"].update(info_nce_weight=0, targets={**TARGETS, "weight": 0}),
        "every weight of the loss is 0 at step 0: raise info_nce_weight or targets.weight",
    ),
    "temperature without InfoNCE": (
        lambda run, _: run["loss"].update(info_nce_weight=0, learn_temperature=True),
        "learn_temperature trains nothing with info_nce_weight 0",
    ),
    "missing folder": (
        lambda run, path: run["teachers"]["english"].update(name_or_path=str(path / "nothing")),
        "nothing: no such model folder",
    ),
    "damaged folder": (
        lambda run, path: _damage(run["teachers"]["english"], path),
        "model.safetensors: is damaged or cut",
    ),
    "width": (
        lambda run, _: run["model"].update(text={"width": 8}),
        "expected vectors of 8 values as of the trained model, got 16 from teachers.english",
    ),
    "narrow": (
        lambda run, _: run["teachers"]["english"].update(text={"width": 8}),
        "name a teacher with 16 values, or set model.text: {width: 8}",
    ),
    "language": (
        lambda run, _: run["loss"]["targets"].update(language="sv"),
        "loss.targets.language: expected a language of the data (en, fi, hu), got sv, in which no text is",
    ),
}  # fmt: skip


def _damage(settings: dict[str, Any], path: Path) -> None:
    folder = path / "damaged"
    shutil.copytree(settings["name_or_path"], folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    settings["name_or_path"] = str(folder)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_before_anything_is_made(
    name: str, launch: Launch, teacher: Path, tmp_path: Path
) -> None:
    change, message = BAD[name]
    run = run_with(launch, tmp_path, teacher, loss={"targets": dict(TARGETS)})
    change(run, tmp_path)
    with pytest.raises((UserError, ValueError)) as raised:
        prepare(RunFile.model_validate(run))
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_nothing_names_is_said(launch: Launch, teacher: Path, tmp_path: Path) -> None:
    run = RunFile.model_validate(run_with(launch, tmp_path, teacher, loss={}))
    assert teachers.unused_teachers(run) == ["teachers.english is not used: no part of the loss names it"]
