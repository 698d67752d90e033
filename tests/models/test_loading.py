"""Model folders that are damaged, incomplete or of another kind: one error with file, finding and remedy."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hbt_dist.common import console
from hbt_dist.common.errors import UserError
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.positions import most_tokens
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings
from tests.models.kinds import KINDS, POSITIONS, save_kind
from tests.models.test_encoder import tiny_encoder, tiny_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_encoder(tiny_encoder(TextSettings(), dense=True), tiny_tokenizer(), folder)
    return folder


@pytest.fixture(autouse=True)
def _notes_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console._Output, "quiet", False)


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def refusal(folder: Path, **how: Any) -> UserError:
    with pytest.raises(UserError) as caught:
        load_encoder(folder, **how)
    assert caught.value.remedy
    assert "\n" not in caught.value.problem
    return caught.value


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "hbt_dist.json",
    ],
)
@pytest.mark.parametrize("content", ["{", "", POINTER, "7", "\xff\xfe"])
def test_a_damaged_json_file_is_named(file: str, content: str, model: Path) -> None:
    (model / file).write_bytes(content.encode("latin-1"))
    error = refusal(model)
    assert error.location == str(model / file)
    finding = {"": "is empty", POINTER: "is a Git LFS pointer"}.get(content)
    assert finding is None or error.problem.startswith(finding)


def test_damaged_weights_are_named(model: Path) -> None:
    for file in (model / WEIGHTS, model / "2_Dense" / WEIGHTS):
        whole = file.read_bytes()
        for content in (POINTER.encode(), b"", whole[:4], whole[:200], whole[:-1], whole + b"x"):
            file.write_bytes(content)
            error = refusal(model)
            assert error.location in {str(file), str(file.parent)}, str(error)
        file.write_bytes(whole)
    load_encoder(model)


def test_weights_in_an_old_file_that_is_cut_are_refused(model: Path) -> None:
    state = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    torch.save(state, model / "pytorch_model.bin")
    load_encoder(model)
    whole = (model / "pytorch_model.bin").read_bytes()
    (model / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "cannot be loaded as a model" in refusal(model).problem
    (model / "pytorch_model.bin").unlink()
    assert WEIGHTS in refusal(model).problem


def test_a_missing_shard_is_named(model: Path) -> None:
    state = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    names = sorted(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, model / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    load_encoder(model)
    (model / "b.safetensors").unlink()
    error = refusal(model)
    assert error.location.endswith(f"{WEIGHTS}.index.json")
    assert error.problem == "lists 2 files of weights, but 1 are missing: b.safetensors"


@pytest.mark.parametrize(
    ("keys", "finding"),
    [
        ({"vocab_size": 130}, r"word_embeddings.weight has shape \(120, 16\) in the file, .* \(130, 16\)"),
        ({"hidden_size": 18}, r"has shape .* in the file, but config.json expects"),
        ({"num_hidden_layers": 3}, r"16 weights that config.json expects are missing: encoder.layer.2"),
        ({"is_encoder_decoder": True}, r"is an encoder-decoder \(bert\), which is not supported"),
    ],
)
def test_weights_that_do_not_fit_the_configuration_are_refused(
    keys: dict[str, Any], finding: str, model: Path
) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | keys))
    assert refusal(model).args[1] is not None
    with pytest.raises(UserError, match=finding):
        load_encoder(model)


@pytest.mark.parametrize("kind", ["pegasus", "bart"])
def test_encoder_decoders_are_refused_by_name(kind: str, model: Path) -> None:
    config = transformers.AutoConfig.for_model(kind, vocab_size=120, d_model=16, num_layers=1)
    transformers.AutoModel.from_config(config).save_pretrained(model)
    assert f"is an encoder-decoder ({kind})" in refusal(model).problem


def test_an_adapter_next_to_a_model_is_never_silently_the_base(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "a/base"}')
    assert refusal(model).problem.startswith(
        "holds a whole model and an adapter of a/base: libraries disagree"
    )


def test_a_dense_layer_of_another_width_is_refused(model: Path) -> None:
    file = model / "2_Dense" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_features": 12}))
    assert refusal(model).location == str(model / "2_Dense")
    save_file({"linear.weight": torch.zeros(8, 12), "linear.bias": torch.zeros(8)}, file.parent / WEIGHTS)
    assert refusal(model).problem == "a Dense module expects width 12, got 16"


def test_only_an_unused_pooler_is_silent(
    model: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    config = transformers.AutoConfig.from_pretrained(model)
    transformers.BertModel(config, add_pooling_layer=True).save_pretrained(model)
    capsys.readouterr()
    with caplog.at_level(logging.WARNING, logger="transformers"):
        assert load_encoder(model).notes == ()
    assert capsys.readouterr().err == ""
    assert "LOAD REPORT" not in caplog.text
    state = load_file(model / WEIGHTS)
    save_file({**state, "cls.bias": torch.zeros(3)}, model / WEIGHTS, metadata={"format": "pt"})
    load_encoder(model)
    assert capsys.readouterr().err == f"{model}: 1 weight of the file is not used (cls.bias)\n"


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_without_a_tokenizer_is_refused(kind: str, tmp_path: Path) -> None:
    folder = save_kind(tmp_path / kind, kind)
    load_encoder(folder)
    for file in [*folder.glob("token*"), *folder.glob("special*"), *folder.glob("vocab*")]:
        file.unlink()
    assert refusal(folder).problem == "has no tokenizer files (tokenizer.json, vocab.txt, *.model, ...)"


@pytest.mark.parametrize(("share", "fits"), [(0.95, False), (1.5, True), (4, False)])
def test_a_tokenizer_of_another_size_is_refused(share: float, fits: bool, tmp_path: Path) -> None:
    folder = save_kind(tmp_path / "bert", "bert")
    config = transformers.AutoConfig.from_pretrained(folder)
    entries = config.vocab_size
    config.vocab_size = int(share * entries)
    transformers.BertModel(config).save_pretrained(folder)
    if fits:
        load_encoder(folder)
    else:
        expected = f"its tokenizer has {entries} entries, but the model has word embeddings for"
        assert refusal(folder).problem == f"{expected} {config.vocab_size}"


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_decoder_without_a_padding_token_is_exported_with_one(pooling: Any, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = save_kind(tmp_path / "llama", "llama")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    loaded = load_encoder(folder, text={"pooling": pooling, "max_passage_tokens": 64})
    line = f"{folder}: the tokenizer has no padding token and takes '</s>'; no vector depends on it"
    assert loaded.notes[-1] == line
    (tmp_path / "model").mkdir()
    save_encoder(loaded.encoder, loaded.tokenizer, tmp_path / "model")
    assert not any("padding" in line for line in load_encoder(tmp_path / "model").notes)
    texts = ["helsinki", "what is the capital of finland"]
    library = SentenceTransformer(str(tmp_path / "model"), device="cpu").encode(texts)
    for row, text in zip(library, texts, strict=True):
        tokens = loaded.tokenizer(text, return_tensors="pt")
        vector = loaded.encoder(tokens["input_ids"], tokens["attention_mask"])[0]
        torch.testing.assert_close(torch.from_numpy(row), vector.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_above_the_positions_are_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_kind(tmp_path / kind, kind)
    last = {"pooling": "last"}
    fits = load_encoder(folder, text={**last, "max_question_tokens": 8, "max_passage_tokens": POSITIONS})
    assert fits.notes == ()
    ids = torch.full((1, POSITIONS), 5)
    fits.encoder(ids, torch.ones_like(ids))
    error = refusal(folder, text={"max_passage_tokens": POSITIONS + 1})
    assert str(error).startswith(f"max_passage_tokens: is 65, but {folder} has positions for 64 tokens")
    assert error.remedy == "set it to 64 or less"
    capsys.readouterr()
    lowered = load_encoder(folder, text=last)  # the default of 256
    assert (lowered.text.max_question_tokens, lowered.text.max_passage_tokens) == (64, 64)
    line = f"{folder}: max_passage_tokens 256 is lowered to 64, the positions of the model\n"
    assert capsys.readouterr().err == line


def test_a_limit_of_the_folder_is_lowered_and_reported_once(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "hbt_dist.json").unlink()
    (model / "sentence_bert_config.json").write_text('{"max_seq_length": 2000}')
    capsys.readouterr()
    loaded = load_encoder(model)
    assert loaded.text.max_passage_tokens == most_tokens(loaded.encoder.backbone) == 512
    assert capsys.readouterr().err.splitlines() == list(loaded.notes)
    assert len(loaded.notes) == 2
    load_encoder(model, quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta", "MPNet"])
def test_a_model_reads_as_many_tokens_as_it_has_positions(kind: str) -> None:
    config_class, model_class = (getattr(transformers, f"{kind}{part}") for part in ("Config", "Model"))
    config = config_class(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    model = model_class(config).eval()
    most = most_tokens(model)
    assert most == (34 if kind == "Bert" else 32)
    ids = torch.full((1, most), 5)
    model(ids, torch.ones_like(ids))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5), torch.ones(1, most + 1, dtype=torch.long))


def meta(make: Callable[[], torch.nn.Module]) -> int | None:
    with torch.device("meta"):
        return most_tokens(make())


def test_relative_positions_have_no_limit() -> None:
    deberta = transformers.DebertaV2Config(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["p2c", "c2p"],
    )
    assert meta(lambda: transformers.DebertaV2Model(deberta)) is None
    opt = transformers.OPTConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, ffn_dim=8
    )
    assert meta(lambda: transformers.OPTModel(opt)) == 2048


def _write_keys(file: Path, **keys: Any) -> None:
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | keys))


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("1_Pooling/config.json", {"layer": 3}),
        ("sentence_bert_config.json", {"query_length": 32}),
        ("2_Dense/config.json", {"use_residual": True}),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}),
        ("3_Normalize/config.json", {"module_input_name": "token_embeddings"}),
    ],
)
def test_keys_that_would_change_the_vectors_are_refused(file: str, keys: dict[str, Any], model: Path) -> None:
    _write_keys(model / file, **keys)
    error = refusal(model)
    assert error.location == str(model / file)
    assert error.problem.startswith(f"{next(iter(keys))}: ")


def test_keys_that_change_nothing_are_read(model: Path) -> None:
    _write_keys(model / "1_Pooling/config.json", include_prompt=True, pooling_mode_max_tokens=False)
    _write_keys(model / "sentence_bert_config.json", do_lower_case=True, query_length=None)
    _write_keys(model / "tokenizer_config.json", do_lower_case=True)
    _write_keys(model / "2_Dense/config.json", use_residual=False, module_input_name="sentence_embedding")
    load_encoder(model)


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "q: ", "passage": "p: ", "document": "text: "},
        {"query": "q: ", "document": "text: ", "corpus": "c: "},
        {"query": "q: ", "corpus": "c: "},  # it adds an empty one for documents
    ],
)
def test_prompts_are_those_of_sentence_transformers(prompts: dict[str, str], model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    (model / "hbt_dist.json").unlink()
    _write_keys(model / "config_sentence_transformers.json", prompts=prompts)
    text = load_encoder(model).text
    theirs = SentenceTransformer(str(model), device="cpu")
    assert text.question_prefix == "q: "
    torch.testing.assert_close(
        theirs.encode_document(["helsinki"]), theirs.encode([text.passage_prefix + "helsinki"], prompt="")
    )
