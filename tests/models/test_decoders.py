"""Decoders against sentence-transformers: end token, cut texts, padding side, direction, bf16."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, processors

from hbt_dist.common.errors import UserError
from hbt_dist.models.attention import has_row_attention
from hbt_dist.models.decoders import is_causal, set_direction
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import ModelSettings
from hbt_dist.models.tokenising import tokenise
from hbt_dist.models.tokenizer import check_vocabulary
from tests.models.kinds import SPECIAL, byte_level, bytes_without_words

TEXTS = ["helsinki", "what is the capital of finland", "the capital of finland is helsinki " * 6, "is"]
LIMIT = 24
#: Model type -> keys of its configuration.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "mistral": {"sliding_window": 6},
    "gpt2": {},
}
#: How the tokenizer of the folder ends.
STARTS = {"none": None, "start": "<s> $A", "bytes": "bytes", "both": "sequence"}


def decoder(folder: Path, family: str, template: str | None = None, **options: Any) -> Path:
    """Write a folder of transformers whose tokenizer adds no end token."""
    backend: Tokenizer = bytes_without_words() if family == "llama" else byte_level()
    start = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    plain = processors.ByteLevel(trim_offsets=False)
    backend.post_processor = {
        None: None, "<s> $A": start, "bytes": plain, "sequence": processors.Sequence([plain, start])
    }[template]  # fmt: skip
    if template is None:
        content = json.loads(backend.to_str())
        content["post_processor"] = None
        backend = Tokenizer.from_str(json.dumps(content))
    special = {key: value for key, value in SPECIAL.items() if key in ("bos_token", "unk_token", "eos_token")}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special | options)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=24, max_position_embeddings=64, initializer_range=0.3,
        **FAMILIES[family],
    )  # fmt: skip
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(folder: Path, **text: Any) -> LoadedEncoder:
    limits = {"max_question_tokens": LIMIT, "max_passage_tokens": LIMIT}
    return load_encoder(folder, text={**limits, **text}, quiet=True)


def export(loaded: LoadedEncoder, folder: Path, **how: Any) -> Path:
    folder.mkdir()
    save_encoder(loaded.encoder, loaded.tokenizer, folder, **how)
    return folder


def library(folder: Path) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    return torch.as_tensor(SentenceTransformer(str(folder), device="cpu").encode(TEXTS))


def padded(loaded: LoadedEncoder, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    rows = tokenise(loaded.tokenizer, TEXTS, LIMIT).ids
    ids = torch.full((len(rows), max(len(row) for row in rows)), 3)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        columns = slice(len(row)) if side == "right" else slice(ids.shape[1] - len(row), None)
        ids[i, columns], mask[i, columns] = torch.from_numpy(row).long(), 1
    return ids, mask


def vectors(loaded: LoadedEncoder, side: str = "right") -> torch.Tensor:
    with torch.no_grad():
        return loaded.encoder(*padded(loaded, side))


def close(got: torch.Tensor, want: torch.Tensor, atol: float = 1e-5) -> bool:
    return bool(torch.allclose(got.float(), want.float(), rtol=0, atol=atol))


@pytest.mark.parametrize("attention", ["model", "causal", "bidirectional"])
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_decoders_have_the_vectors_of_sentence_transformers(
    family: str, attention: str, tmp_path: Path
) -> None:
    chosen = {"pooling": "last"} if attention == "bidirectional" else {}
    loaded = load(decoder(tmp_path / "base", family), attention=attention, **chosen)
    assert (loaded.text.pooling, loaded.text.append_eos) == ("last", True)
    want = vectors(loaded)
    assert close(vectors(loaded, "left"), want)
    folder = export(loaded, tmp_path / "model")
    assert close(library(folder), want)
    again = load(folder)
    assert again.text == loaded.text
    assert close(vectors(again), want)
    causal = vectors(load(tmp_path / "base"))
    assert close(causal, want, 1e-3) == (attention != "bidirectional")
    assert is_causal(again.encoder.backbone) == (attention != "bidirectional")
    recorded = json.loads((folder / "config.json").read_text())
    assert recorded["use_cache"] is json.loads((tmp_path / "base/config.json").read_text())["use_cache"]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_text_ends_in_the_end_token_also_a_cut_one(family: str, start: str, tmp_path: Path) -> None:
    loaded = load(decoder(tmp_path / "base", family, STARTS[start]))
    tokens = tokenise(loaded.tokenizer, TEXTS, LIMIT)
    end, first = loaded.tokenizer.eos_token_id, loaded.tokenizer.bos_token_id
    assert tokens.cut.tolist() == [False, False, True, False]
    for row in tokens.ids:
        assert row[-1] == end
        assert (row == end).sum() == 1
        assert (row[0] == first) == (start in ("start", "both"))
    folder = export(loaded, tmp_path / "model")
    for a, b in zip(tokens.ids, tokenise(load(folder).tokenizer, TEXTS, LIMIT).ids, strict=True):
        assert a.tolist() == b.tolist()
    assert close(library(folder), vectors(loaded))


def test_a_folder_trained_without_an_end_token_keeps_its_vectors(tmp_path: Path) -> None:
    base = load(decoder(tmp_path / "base", "qwen3"), append_eos=False)
    folder = export(base, tmp_path / "model")
    (folder / "hbt_dist.json").unlink()  # as sentence-transformers writes it
    loaded = load(folder)
    assert loaded.text.append_eos is False
    assert close(vectors(loaded), library(folder))
    (line,) = [line for line in loaded.notes if "end token" in line and "padding" not in line]
    assert line.endswith("set model.text.append_eos: true to train with one")
    ending = load(folder, append_eos=True)
    assert not close(vectors(ending), vectors(loaded), 1e-3)


def test_weights_in_bf16_are_those_of_the_file_rounded_and_trained_ones_are_written_whole(
    tmp_path: Path,
) -> None:
    base = decoder(tmp_path / "base", "llama")
    limits = {"max_question_tokens": LIMIT, "max_passage_tokens": LIMIT}
    low = load_encoder(base, text=limits, dtype=torch.bfloat16, quiet=True)
    whole = load(base)
    assert {p.dtype for p in low.encoder.backbone.parameters()} == {torch.bfloat16}
    for a, b in zip(low.encoder.parameters(), whole.encoder.parameters(), strict=True):
        assert torch.equal(a, b.bfloat16())
    want = vectors(whole)
    assert close(vectors(low), want, 0.05)
    state = whole.encoder.backbone.state_dict()
    folder = export(low, tmp_path / "model", backbone_state=state)
    assert all(torch.equal(v, state[k]) for k, v in load_file(folder / "model.safetensors").items())
    assert close(library(folder), want)


def test_no_keys_are_kept(tmp_path: Path) -> None:
    loaded = load(decoder(tmp_path / "base", "gpt2"))
    kept: list[Any] = []
    loaded.encoder.backbone.register_forward_hook(lambda *a: kept.append(a[-1].past_key_values))
    vectors(loaded)
    assert kept == [None]


def test_a_causal_model_is_not_pooled_by_its_first_token(tmp_path: Path) -> None:
    base = decoder(tmp_path / "base", "qwen3")
    with pytest.raises(UserError, match="first token sees no other token"):
        load(base, pooling="cls")
    notes = load(base, pooling="mean").notes
    assert any("pooling mean of a causal model" in line for line in notes)
    assert load(base, pooling="cls", attention="bidirectional").text.append_eos is False
    assert not any("pooling" in line for line in load(base, pooling="mean", attention="bidirectional").notes)


def test_a_direction_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    from tests.models.kinds import save_kind

    bert = save_kind(tmp_path / "bert", "bert")
    with pytest.raises(UserError, match=r"is causal, but BertModel of .* cannot attend so"):
        load(bert, attention="causal")
    assert load(bert, attention="bidirectional").text.pooling == "mean"
    with pytest.raises(ValueError, match="'model', 'causal' or 'bidirectional'"):
        ModelSettings(name_or_path=str(bert), text={"attention": "sideways"})


def _small(kind: str, **keys: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **sizes, **keys))


def test_models_without_word_embeddings_load_and_have_a_direction(tmp_path: Path) -> None:
    canine = _small("canine")
    check_vocabulary(None, canine, "canine")
    assert set_direction(canine, "model", "canine")[0] is False


@pytest.mark.parametrize(("is_decoder", "says"), [(False, "the whole text"), (True, "its past")])
def test_a_model_that_shows_no_direction_has_that_of_its_configuration(is_decoder: bool, says: str) -> None:
    """Each token of such a layer sees itself alone, as in MRA without its kernel; or the layer fails."""
    for forward in (lambda hidden, *_, **__: (hidden, None), None):
        model = _small("bert", vocab_size=50, is_decoder=is_decoder)
        model.encoder.layer[0].attention.self.forward = forward
        assert is_causal(model) is None
        causal, (line,) = set_direction(model, "model", "folder")
        assert causal is is_decoder
        assert line.startswith("folder: no text shows in which direction BertModel attends")
        assert says in line
        with pytest.raises(UserError, match="BertModel of folder cannot attend so"):
            set_direction(model, "bidirectional" if causal else "causal", "folder")


@pytest.mark.parametrize(
    ("kind", "causal"), [("mra", False), ("jamba", True), ("gpt2", True), ("bert", False)]
)
def test_the_direction_of_a_model_that_cannot_be_tried(kind: str, causal: bool) -> None:
    model = torch.nn.Module()
    model.config = transformers.AutoConfig.for_model(kind)  # type: ignore[assignment]
    assert set_direction(model, "model", "folder")[0] is causal


def test_a_model_of_other_inputs_is_refused(tmp_path: Path) -> None:
    transformers.PerceiverModel(
        transformers.PerceiverConfig(
            num_latents=2, d_latents=16, d_model=16, num_blocks=1, num_self_attends_per_block=1,
            num_self_attention_heads=2, num_cross_attention_heads=2,
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **SPECIAL).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="PerceiverModel takes no token ids"):
        load_encoder(tmp_path)


def test_a_setting_that_the_tokenizer_decides_is_reported(tmp_path: Path) -> None:
    base = decoder(tmp_path / "base", "qwen3")
    folder = export(load(base, lowercase=True), tmp_path / "model")
    both = load(folder, lowercase=False, append_eos=False).notes
    assert [line.split(": ")[1] for line in both if "has no effect" in line] == ["lowercase", "append_eos"]
    assert any("because the tokenizer lower-cases texts" in line for line in both)
    for source, text in ((folder, {}), (base, {"lowercase": False, "append_eos": False})):
        assert not any("has no effect" in line for line in load(source, **text).notes)


def test_an_end_token_that_cannot_be_added_is_refused(tmp_path: Path) -> None:
    base = decoder(tmp_path / "base", "qwen3", eos_token=None)
    for text in ({"pooling": "last"}, {"pooling": "mean", "append_eos": True}):
        with pytest.raises(UserError, match="got a tokenizer without one") as caught:
            load(base, **text)
        assert caught.value.remedy
    assert load(base, pooling="mean").text.append_eos is False


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_the_encoder_of_an_encoder_decoder_is_taken(kind: str, tmp_path: Path) -> None:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_level(), **SPECIAL)
    sizes = {
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_heads": 2,
        "vocab_size": len(tokenizer),
    }
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, pad_token_id=1, decoder_start_token_id=1, **sizes)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    loaded = load(tmp_path / "base")
    folder = export(loaded, tmp_path / "model")
    assert close(library(folder), vectors(loaded))
    assert close(vectors(load(folder)), vectors(loaded))
    assert all("weights of the file are not used (decoder." in line for line in loaded.notes)


def test_sliding_windows_keep_the_attention_of_transformers(tmp_path: Path) -> None:
    covered = {f: has_row_attention(load(decoder(tmp_path / f, f)).encoder.backbone) for f in FAMILIES}
    assert covered == {"llama": True, "qwen3": True, "mistral": False, "gpt2": False}
