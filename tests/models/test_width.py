"""Vectors cut to a width: equal here and in sentence-transformers, recorded, and honoured when read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from hbt_dist.common.errors import UserError
from hbt_dist.models.head import DenseLayer, cut_layer, is_cut
from hbt_dist.models.known_width import known_width
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import ModelSettings, TextSettings
from tests.models.test_encoder import TEXTS, embed, tiny_encoder, tiny_tokenizer


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dense", [False, True])
def test_a_cut_is_repeated_by_sentence_transformers_and_by_both_readings_of_the_folder(
    tmp_path: Path, dense: bool, normalize: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    text = TextSettings(width=5, normalize=normalize)
    encoder, tokenizer = tiny_encoder(text, dense), tiny_tokenizer()
    whole = embed(tiny_encoder(TextSettings(normalize=False), dense), tokenizer, TEXTS)
    want = F.normalize(whole[:, :5], dim=-1) if normalize else whole[:, :5]
    torch.testing.assert_close(embed(encoder, tokenizer, TEXTS), want, rtol=0, atol=1e-6)
    save_encoder(encoder, tokenizer, tmp_path)

    theirs = SentenceTransformer(str(tmp_path), device="cpu")
    assert theirs.get_embedding_dimension() == 5
    torch.testing.assert_close(torch.as_tensor(theirs.encode(TEXTS)), want, rtol=0, atol=1e-6)

    for recorded in (True, False):
        if not recorded:
            (tmp_path / "hbt_dist.json").unlink()
        ours = load_encoder(tmp_path)
        assert ours.text.width == ours.encoder.width == 5
        assert len(ours.encoder.dense) == dense  # the cut is a setting, not weights to train
        torch.testing.assert_close(embed(ours.encoder, ours.tokenizer, TEXTS), want, rtol=0, atol=1e-6)
        again = load_encoder(tmp_path, text={"width": None})
        assert again.encoder.width == (8 if dense else 16)


@pytest.mark.parametrize(("recorded", "width"), [(None, 5), (3, 3), (7, 5)])
def test_a_cut_layer_cuts_also_where_the_settings_record_more(
    tmp_path: Path, recorded: int | None, width: int
) -> None:
    save_encoder(tiny_encoder(TextSettings(width=5)), tiny_tokenizer(), tmp_path)
    file = tmp_path / "hbt_dist.json"
    content = json.loads(file.read_text())
    content["text"]["width"] = recorded
    file.write_text(json.dumps(content))
    assert load_encoder(tmp_path).encoder.width == width


def test_the_full_width_needs_no_layer(tmp_path: Path) -> None:
    save_encoder(tiny_encoder(TextSettings(width=16)), tiny_tokenizer(), tmp_path)
    assert not list(tmp_path.glob("*_Dense"))
    assert load_encoder(tmp_path).text.width == 16


@pytest.mark.parametrize("module", [True, False])
def test_truncate_dim_of_sentence_transformers_is_honoured(tmp_path: Path, module: bool) -> None:
    from sentence_transformers import SentenceTransformer

    (tmp_path / "ours").mkdir()
    save_encoder(tiny_encoder(TextSettings(normalize=module)), tiny_tokenizer(), tmp_path / "ours")
    theirs = SentenceTransformer(
        str(tmp_path / "ours"), device="cpu", truncate_dim=6, similarity_fn_name="cosine"
    )
    theirs.save(str(tmp_path / "theirs"))
    loaded = load_encoder(tmp_path / "theirs")
    assert loaded.text.width == 6
    got = embed(loaded.encoder, loaded.tokenizer, TEXTS)
    want = torch.as_tensor(theirs.encode(TEXTS, normalize_embeddings=True))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got @ got.T, theirs.similarity(want, want), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"truncate_dim": 17}, "expected at most 16, the values of its embeddings, got 17"),
        ({"truncate_dim": 0}, "expected a number above 0 for truncate_dim, got 0"),
        ({"truncate_dim": "6"}, "expected a number above 0 for truncate_dim, got '6'"),
        (
            {"truncate_dim": 6, "similarity_fn_name": "dot"},
            "truncate_dim after a Normalize module is not supported with similarity dot",
        ),
    ],
)
def test_a_truncation_that_cannot_be_honoured_is_refused(
    tmp_path: Path, keys: dict[str, Any], message: str
) -> None:
    save_encoder(tiny_encoder(TextSettings()), tiny_tokenizer(), tmp_path)
    (tmp_path / "hbt_dist.json").unlink()
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    with pytest.raises(UserError, match=message):
        load_encoder(tmp_path)


def test_a_width_above_the_models_is_refused(tmp_path: Path) -> None:
    save_encoder(tiny_encoder(TextSettings(), dense=True), tiny_tokenizer(), tmp_path)
    with pytest.raises(UserError, match="expected at most 8, the values of its embeddings, got 9"):
        load_encoder(tmp_path, text={"width": 9})


@pytest.mark.parametrize("dense", [False, True])
def test_the_width_of_a_folder_is_known_without_its_weights(tmp_path: Path, dense: bool) -> None:
    save_encoder(tiny_encoder(TextSettings(width=5), dense), tiny_tokenizer(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert known_width(ModelSettings(name_or_path=str(tmp_path))) == (8 if dense else 16)


@pytest.mark.parametrize(
    ("architecture", "width"),
    [
        ({"model_type": "bert", "hidden_size": 24}, 24),
        ({"model_type": "distilbert", "dim": 40}, 40),
        ({"model_type": "no-such-model"}, None),
    ],
)
def test_the_width_of_a_model_from_scratch_is_that_of_its_configuration(
    architecture: dict[str, Any], width: int | None
) -> None:
    assert known_width(ModelSettings(scratch={"architecture": architecture})) == width
    assert known_width(ModelSettings(name_or_path="somebody/model")) is None


def test_only_a_layer_that_keeps_the_first_values_is_a_cut() -> None:
    assert is_cut(cut_layer(4, 2))
    moved = cut_layer(4, 2)
    with torch.no_grad():
        moved.linear.weight.copy_(moved.linear.weight.flip(1))
    biased = DenseLayer(torch.nn.Linear(4, 2), torch.nn.Identity())
    with torch.no_grad():
        biased.linear.weight.copy_(torch.eye(2, 4))
    bent = DenseLayer(cut_layer(4, 2).linear, torch.nn.Tanh())
    assert not any(map(is_cut, (moved, biased, bent)))
