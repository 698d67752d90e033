"""A model exported from a checkpoint is the trainer's, through every library."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hbt_dist.common.errors import UserError
from hbt_dist.jobs.merge import merge_job
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings
from hbt_dist.training.checkpoints.export import export_checkpoint, write_model_folder
from tests.helpers.runs import weights_digest
from tests.helpers.workers import Workers
from tests.models.test_encoder import tiny_encoder, tiny_tokenizer
from tests.training.conftest import Launch

TEXTS = ["Which language has most speakers in Finland?", "Mikä on Unkarin pääkaupunki?", "a"]


def embeddings_of_transformers(folder: Path) -> np.ndarray:
    """Mean pooling written out, so that nothing of ours is in it."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        tokens = tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
        with torch.no_grad():
            hidden = model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        mean = hidden[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


def test_dense_layers_of_a_model_in_bf16_are_written_in_float32(tmp_path: Path) -> None:
    """Under bf16 the engine's layers are rounded; the optimizer's weights are not."""
    (tmp_path / "start").mkdir()
    save_encoder(tiny_encoder(TextSettings(), dense=True), tiny_tokenizer(), tmp_path / "start")
    model = load_encoder(tmp_path / "start", quiet=True)
    trained = {name: torch.randn(value.shape) for name, value in model.encoder.state_dict().items()}
    model.encoder.to(torch.bfloat16)
    write_model_folder(model, trained, tmp_path / "model", card="", facts={})
    written = load_encoder(tmp_path / "model", quiet=True).encoder.state_dict()
    assert written.keys() == trained.keys()
    assert all(torch.equal(written[name], value) for name, value in trained.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_export_of_every_engine(
    stage: int | None, launch: Launch, finished: Callable[..., Path], tmp_path: Path
) -> None:
    output = finished(stage)
    folder = tmp_path / "model"
    group = Workers(1, ["export", output / "checkpoints" / "step-0000000006", "--to", folder], tmp_path)
    assert group.wait() == [0], group.error()
    assert group.output() == f"model after step 6: {folder}\n"
    shutil.copytree(folder, tmp_path / "out" / "model")
    assert weights_digest(tmp_path / "out") == weights_digest(output)
    trained = {path.relative_to(output / "model") for path in (output / "model").rglob("*")}
    assert {path.relative_to(folder) for path in folder.rglob("*")} == trained
    for name in ("README.md", "tokenizer.json", "modules.json", "config.json", "hbt_dist.json"):
        assert (folder / name).read_bytes() == (output / "model" / name).read_bytes()
    assert not [path for path in folder.rglob("*") if path.suffix in (".pt", ".bin", ".pickle", ".py")]


@pytest.mark.slow
def test_embeddings_through_both_libraries(
    launch: Launch, finished: Callable[..., Path], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    output = finished(3)
    folder = tmp_path / "model"
    export_checkpoint(output, folder)  # the run's folder: its newest checkpoint
    trained = load_encoder(output / "model")
    rows = []
    for text in TEXTS:
        tokens = trained.tokenizer(text, return_tensors="pt", truncation=True, max_length=24)
        with torch.no_grad():
            rows.append(trained.encoder(tokens["input_ids"], tokens["attention_mask"])[0].numpy())
    want = np.stack(rows)
    np.testing.assert_allclose(embeddings_of_transformers(folder), want, atol=1e-6)
    library = SentenceTransformer(str(folder), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS), want, atol=1e-6)
    untrained = embeddings_of_transformers(launch.start_model)
    assert np.abs(untrained - want).max() > 1e-3, "the test can tell models apart"


def test_export_while_a_run_goes_on_records_its_step(finished: Callable[..., Path], tmp_path: Path) -> None:
    output = finished(1)
    folder = tmp_path / "model"
    found = export_checkpoint(output / "checkpoints" / "step-0000000004", folder)
    assert found.step == 4
    facts = json.loads((folder / "hbt_dist.json").read_text("utf-8"))["training"]
    assert facts["steps"] == 4
    assert facts["languages"] == ["en", "fi", "hu"]
    last = json.loads((output / "model" / "hbt_dist.json").read_text("utf-8"))["training"]
    assert {**facts, "steps": 6} == last
    export_checkpoint(output / "checkpoints" / "step-0000000004", tmp_path / "cut", width=5)
    cut, whole = load_encoder(tmp_path / "cut"), load_encoder(folder)
    assert (cut.text.width, whole.text.width) == (5, None)
    tokens = whole.tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        got, want = (each.encoder(tokens["input_ids"], tokens["attention_mask"])[0] for each in (cut, whole))
    torch.testing.assert_close(got, want[:5] / want[:5].norm(), rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="expected at most 16, the values of its embeddings, got 17"):
        export_checkpoint(output, tmp_path / "wide", width=17)
    assert not (tmp_path / "wide").exists()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_with_widths_records_the_loss_of_each_and_exports_its_cut(
    launch: Launch, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    file, output = launch.file(tmp_path, loss__widths=[12, 4], model__text={"width": 12}, deepspeed__config=2)
    launch.finish(file, 2)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert row["info_nce"] == pytest.approx((row["info_nce_12"] + row["info_nce_4"]) / 2)
        assert row["info_nce_12"] != row["info_nce_4"]
    model = load_encoder(output / "model")
    assert (model.text.width, model.encoder.width) == (12, 12)
    assert SentenceTransformer(str(output / "model"), device="cpu").encode(TEXTS).shape == (3, 12)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_english_alone_has_seen_english_alone(launch: Launch, tmp_path: Path) -> None:
    """The corpus has three languages; what the batches leave out was not seen, by whatever says so."""
    file, output = launch.file(
        tmp_path,
        batches={
            "global_batch_size": 12,
            "mixture": [{"kind": "monolingual", "languages": ["en"]}],
        },
        evaluation={"benchmarks": [{"name": "sample", "languages": ["en", "fi"]}], "when": ["start", "end"]},
        training__steps=2,
    )
    launch.finish(file, 1)
    facts = json.loads((output / "model" / "hbt_dist.json").read_text("utf-8"))["training"]
    assert facts["languages"] == ["en"]
    assert "| training languages | en |" in (output / "model" / "README.md").read_text("utf-8")
    for results in sorted(output.glob("evaluation/*/*/results.json")):
        seen = json.loads(results.read_text("utf-8"))["groups"]["seen"]
        assert {name: row["languages"] for name, row in seen.items()} == {"seen": ["en"], "unseen": ["fi"]}
    assert len(list(output.glob("evaluation/*/*/results.json"))) == 2


def copy_of(output: Path, tmp_path: Path) -> Path:
    shutil.copytree(output, tmp_path / "out")
    return tmp_path / "out"


def test_bad_sources_and_targets(finished: Callable[..., Path], tmp_path: Path) -> None:
    output = copy_of(finished(2), tmp_path)
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "precious").write_text("x")
    with pytest.raises(UserError, match="exists and is not empty"):
        export_checkpoint(output, taken)
    assert (taken / "precious").read_text() == "x"
    with pytest.raises(UserError, match="no such folder"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "new")
    with pytest.raises(UserError, match="it has no manifest"):
        export_checkpoint(output / "model", tmp_path / "new")
    checkpoint = output / "checkpoints" / "step-0000000006"
    alone = tmp_path / "alone"
    shutil.copytree(checkpoint, alone)
    with pytest.raises(UserError, match="is not the run file of the checkpoint"):
        export_checkpoint(alone, tmp_path / "new")
    shard = next((checkpoint / "state").glob("*optim_states.pt"))
    shard.write_bytes(b"cos\nsystem\n(S'touch /tmp/unpickled'\ntR.")
    with pytest.raises(UserError, match=r"is not a complete checkpoint: state/.*bytes, expected"):
        export_checkpoint(checkpoint, tmp_path / "new")
    assert export_checkpoint(output, tmp_path / "older").step == 4, "the run's newest complete one"
    shutil.rmtree(output / "checkpoints" / "step-0000000004")
    with pytest.raises(UserError, match="holds no complete checkpoint"):
        export_checkpoint(output, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_checkpoints_of_a_run_are_averaged(finished: Callable[..., Path], tmp_path: Path) -> None:
    output = finished(2)
    checkpoints = [output / "checkpoints" / f"step-000000000{step}" for step in (4, 6)]
    merge_job(checkpoints, "0.25,0.75", tmp_path / "merged", "average")
    merge_job([checkpoints[0], output], "0.25,0.75", tmp_path / "with-the-run", "average")
    parts = []
    for checkpoint in checkpoints:
        export_checkpoint(checkpoint, tmp_path / checkpoint.name)
        parts.append(load_file(tmp_path / checkpoint.name / "model.safetensors"))
    merged, with_the_run = (
        load_file(tmp_path / name / "model.safetensors") for name in ("merged", "with-the-run")
    )
    for name, tensor in merged.items():
        expected = 0.25 * parts[0][name].double() + 0.75 * parts[1][name].double()
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(tensor, with_the_run[name], rtol=0, atol=0)
    assert any((parts[0][name] != parts[1][name]).any() for name in merged)
    facts = json.loads((tmp_path / "merged" / "hbt_dist.json").read_text("utf-8"))["training"]
    assert [model["training"]["steps"] for model in facts["merged"]["models"]] == [4, 6]
    assert facts["languages"] == ["en", "fi", "hu"]
    left = {"merged", "with-the-run", *(checkpoint.name for checkpoint in checkpoints)}
    assert {path.name for path in tmp_path.iterdir()} == left
