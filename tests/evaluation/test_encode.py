"""Encoding: the embeddings of one text at a time, and files that are resumed and reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation import encode
from hbt_dist.evaluation.embedding_files import EmbeddingFiles, encoding_fingerprint
from hbt_dist.evaluation.encode import (
    embedding_files,
    encode_missing,
    encode_texts,
    length_batches,
    with_arithmetic,
)
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.head import DenseLayer
from hbt_dist.models.loading import load_encoder
from tests.models.kinds import save_kind

TEXTS = [f"candidate {'fi ' * (i * 7 % 40)}{i}" for i in range(50)]


@pytest.fixture(scope="module")
def loaded(tiny_model):
    return load_encoder(tiny_model)


def one_by_one(loaded, texts, role):
    rows = []
    for text in texts:
        batch = loaded.tokenizer(
            loaded.text.prefix(role) + text,
            truncation=True,
            max_length=loaded.text.max_tokens(role),
            return_tensors="pt",
        )
        with torch.no_grad():
            rows.append(loaded.encoder(batch["input_ids"], batch["attention_mask"])[0])
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("role", ["question", "passage"])
@pytest.mark.parametrize("max_tokens", [1, 40, 100_000])
def test_equal_to_one_text_at_a_time(loaded, role, max_tokens):
    settings = EvaluationSettings(device="cpu", max_tokens_per_batch=max_tokens, rows_per_file=20)
    found = encode_texts(loaded, TEXTS, role, settings=settings, progress=False)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, one_by_one(loaded, TEXTS, role), atol=1e-6)


def test_prefix_and_limit_matter(loaded):
    settings = EvaluationSettings(device="cpu")
    questions = encode_texts(loaded, TEXTS, "question", settings=settings, progress=False)
    passages = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    assert np.abs(questions - passages).max() > 1e-3


def test_bfloat16_is_close(loaded):
    settings = EvaluationSettings(device="cpu", dtype="bfloat16")
    found = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    want = one_by_one(loaded, TEXTS, "passage")
    assert 0 < np.abs(found - want).max() < 0.05


def test_the_arithmetic_is_resolved_before_a_cache_gets_its_name(loaded, tmp_path):
    settings = EvaluationSettings(device="cpu", cache_dir=str(tmp_path))
    assert (settings.dtype, with_arithmetic(settings).dtype) == ("auto", "float32")
    low = settings.model_copy(update={"dtype": "bfloat16"})
    assert with_arithmetic(low) is low
    with pytest.raises(ValueError, match="arithmetic"):
        embedding_files(loaded, TEXTS, "passage", settings)


def test_batches_keep_their_budget():
    lengths = np.array([5, 90, 7, 7, 30, 200, 1, 31])
    batches = length_batches(lengths, 96)
    assert sorted(np.concatenate(batches).tolist()) == list(range(8))
    for rows in batches:
        assert len(rows) == 1 or lengths[rows].max() * len(rows) <= 96


def test_files_are_resumed_and_reused(loaded, tmp_path, monkeypatch):
    settings = EvaluationSettings(device="cpu", cache_dir=str(tmp_path), rows_per_file=8)
    plain = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    assert isinstance(plain, EmbeddingFiles)
    first = plain[:]
    np.testing.assert_array_equal(plain[np.array([49, 0, 17, 8])], first[[49, 0, 17, 8]])
    np.testing.assert_array_equal(plain[5:21], first[5:21])
    manifest = json.loads((plain.folder / "manifest.json").read_text())
    assert (manifest["num_rows"], manifest["width"], manifest["rows_per_file"]) == (50, 16, 8)
    assert manifest["made_from"]["dtype"] == "float32"  # what auto means on a CPU

    made = []
    real = encode.encode_rows

    def watched(loaded, texts, *rest):
        made.append(len(texts))
        return real(loaded, texts, *rest)

    monkeypatch.setattr(encode, "encode_rows", watched)
    again = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    assert made == []
    plain.file(2).unlink()
    plain.file(6).unlink()  # the short one at the end
    again = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    assert made == [8, 2]
    np.testing.assert_array_equal(again[:], first)
    changed = encode_texts(loaded, [*TEXTS[:-1], "other"], "passage", settings=settings, progress=False)
    assert changed.folder != plain.folder
    low = settings.model_copy(update={"dtype": "bfloat16"})
    assert encode_texts(loaded, TEXTS, "passage", settings=low, progress=False).folder != plain.folder
    with torch.no_grad():
        bias = loaded.encoder.backbone.embeddings.LayerNorm.bias
        bias += 0.5
        assert (
            encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False).folder != plain.folder
        )
        bias -= 0.5


def test_workers_share_the_files_of_an_encode(loaded, tmp_path):
    settings = with_arithmetic(EvaluationSettings(device="cpu", cache_dir=str(tmp_path), rows_per_file=8))
    files = embedding_files(loaded, TEXTS, "passage", settings)
    files.write_file(4, np.zeros((8, 16), np.float32))  # of an earlier start
    for number, left in ((1, [0, 2, 3, 5, 6]), (2, [0, 3, 6]), (0, [])):
        share = (number, 3)
        encode_missing(files, loaded, TEXTS, "passage", settings=settings, share=share, progress=False)
        assert files.missing() == left
    want = encode_texts(loaded, TEXTS, "passage", settings=EvaluationSettings(device="cpu", rows_per_file=8))
    assert (files[32:40] == 0).all()
    rows = np.r_[0:32, 40:50]
    np.testing.assert_array_equal(files[rows], want[rows])


def test_an_interrupted_file_is_not_there(loaded, tmp_path, monkeypatch):
    settings = EvaluationSettings(device="cpu", cache_dir=str(tmp_path), rows_per_file=8)
    real = encode.encode_rows

    def fail_on_third(loaded, texts, *rest):
        if texts[0] == TEXTS[16]:
            raise KeyboardInterrupt
        return real(loaded, texts, *rest)

    monkeypatch.setattr(encode, "encode_rows", fail_on_third)
    with pytest.raises(KeyboardInterrupt):
        encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    folder = next(tmp_path.iterdir())
    assert sorted(path.name for path in folder.iterdir()) == [
        "flags-000000.npy",
        "flags-000001.npy",
        "manifest.json",
        "rows-000000.npy",
        "rows-000001.npy",
    ]


def test_a_damaged_manifest_is_named(loaded, tmp_path):
    settings = EvaluationSettings(device="cpu", cache_dir=str(tmp_path))
    folder = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False).folder
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json"):
        encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("nan", r"is not a number \(NaN\)"),
        ("infinite", "is infinite"),
        ("zero", "is all zeros"),
        ("width", r"expected vectors of width 16 as in its configuration, got shape \(15,\)"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_bad_vectors_are_known_with_their_batch(tiny_model, tmp_path, monkeypatch, broken, found, cached):
    loaded = load_encoder(tiny_model)
    forward, calls = type(loaded.encoder).forward, []

    def damaged(self, input_ids, attention_mask, lengths):
        good = forward(self, input_ids, attention_mask, lengths)
        calls.append(len(good))
        if len(calls) < 2:  # the second batch of 20 or so
            return good
        if broken == "width":
            return good[:, :15]
        good[-1] = {"nan": torch.nan, "infinite": torch.inf, "zero": 0.0}[broken]
        return good

    monkeypatch.setattr(type(loaded.encoder), "forward", damaged)
    settings = EvaluationSettings(
        device="cpu",
        max_tokens_per_batch=60,
        rows_per_file=20,
        cache_dir=str(tmp_path / "cache") if cached else None,
    )
    with pytest.raises(UserError, match=found) as error:
        encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    assert len(calls) == 2
    if broken != "width":
        row = int(error.value.location.split("row ")[1].split(":")[0])
        assert error.value.location == f"passage embedding of 'row {row}: {TEXTS[row][:60]}'"
    assert not list((tmp_path / "cache").rglob("rows-*"))
    assert not list((tmp_path / "cache").rglob(".part-*"))


def test_a_bad_vector_is_named_by_its_row_in_the_whole(loaded, monkeypatch):
    real = encode.check_rows

    def refuse_one(values, name_of, what):
        names = [name_of(i) for i in range(len(values))]
        assert all(TEXTS[int(name.split()[1][:-1])].startswith(name.split(": ")[1]) for name in names)
        real(values, name_of, what)

    monkeypatch.setattr(encode, "check_rows", refuse_one)
    settings = EvaluationSettings(device="cpu", rows_per_file=20)
    encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)


def test_a_damaged_file_is_named_before_anything_is_encoded(loaded, tmp_path):
    settings = EvaluationSettings(device="cpu", cache_dir=str(tmp_path), rows_per_file=20)
    files = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    first, whole = files[:], files.file(1).read_bytes()
    for damaged, found in (
        (whole[:-8], "cannot be read"),
        (b"", "cannot be read"),
        (files.file(2).read_bytes(), r"expected values of shape \(20, 16\), got \(10, 16\)"),
    ):
        files.file(1).write_bytes(damaged)
        with pytest.raises(UserError, match=rf"rows-000001\.npy: {found}"):
            encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    files.file(1).unlink()
    again = encode_texts(loaded, TEXTS, "passage", settings=settings, progress=False)
    np.testing.assert_array_equal(again[:], first)


def test_every_text_setting_is_in_the_fingerprint_of_stored_embeddings(tiny_model: Path) -> None:
    loaded = load_encoder(tiny_model)

    def fingerprint(**changes: Any) -> str:
        loaded.encoder.text = text.model_copy(update=changes)
        return encoding_fingerprint(loaded, ["a text"], "question", "float32")

    text = loaded.text
    before = fingerprint()
    assert fingerprint(passage_prefix="p: ", max_passage_tokens=5) == before, "the other role's settings"
    changes = {"pooling": "cls", "normalize": False, "question_prefix": "q: ", "max_question_tokens": 5}
    for name, value in {**changes, "width": 4, "attention": "causal"}.items():
        assert fingerprint(**{name: value}) != before, name
    # The tokenizer, whose digest counts, has what append_eos adds.
    names = {"question_prefix", "passage_prefix", "max_question_tokens", "max_passage_tokens"}
    for name in set(type(text).model_fields) - {"pooling", "normalize", "append_eos", "attention", *names}:
        loaded.encoder.text = text.model_copy(update={name: "a value that is not the default"})
        with pytest.warns(UserWarning, match=name):  # of pydantic: not a value of that setting
            assert encoding_fingerprint(loaded, ["a text"], "question", "float32") != before, name


def test_the_configuration_is_in_the_fingerprint_of_stored_embeddings(tmp_path: Path) -> None:
    base = save_kind(tmp_path / "qwen3", "qwen3")
    file = base / "config.json"
    content = json.loads(file.read_text())

    def fingerprint(**changes: Any) -> str:
        file.write_text(json.dumps(content | changes))
        return encoding_fingerprint(load_encoder(base, quiet=True), ["a text"], "question", "float32")

    before = fingerprint()
    assert fingerprint(transformers_version="1.0", architectures=None, dtype=None) == before
    for changes in ({"hidden_act": "gelu"}, {"rms_norm_eps": 0.1}, {"is_causal": False}):
        assert fingerprint(**changes) != before, changes


def test_activations_of_dense_layers_are_in_the_fingerprint(tiny_model: Path) -> None:
    loaded = load_encoder(tiny_model, quiet=True)
    full_width, fingerprints = loaded.encoder.full_width, set()
    for activation in (torch.nn.Identity(), torch.nn.Tanh()):
        linear = torch.nn.Linear(full_width, 4)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        loaded.encoder.dense = torch.nn.ModuleList([DenseLayer(linear, activation)])
        fingerprints.add(encoding_fingerprint(loaded, ["a text"], "question", "float32"))
    assert len(fingerprints) == 2
