"""The model folder: what we write, transformers and sentence-transformers read with equal embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from hbt_dist.common.errors import UserError
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.head import DenseLayer, pool
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings

TEXTS = ["what is the capital of finland", "helsinki", "mikä on suomen pääkaupunki ja missä se on"]


def tiny_tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def tiny_encoder(text: TextSettings, dense: bool = False) -> Encoder:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=120, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    layers = [DenseLayer(torch.nn.Linear(16, 8), torch.nn.Tanh())] if dense else []
    return Encoder(transformers.BertModel(config, add_pooling_layer=False), text, layers).eval()


def embed(encoder: Encoder, tokenizer, texts: list[str], prefix: str = "") -> torch.Tensor:
    batch = tokenizer([prefix + t for t in texts], padding=True, return_tensors="pt", truncation=True)
    with torch.no_grad():
        return encoder(batch["input_ids"], batch["attention_mask"])


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("dense", [False, True])
def test_three_readers_agree(tmp_path: Path, pooling: str, dense: bool) -> None:
    from sentence_transformers import SentenceTransformer

    text = TextSettings(pooling=pooling, question_prefix="query: ", passage_prefix="passage: ")
    encoder, tokenizer = tiny_encoder(text, dense), tiny_tokenizer()
    folder = tmp_path / "model"
    folder.mkdir()
    save_encoder(encoder, tokenizer, folder, card="# card\n")
    want = embed(encoder, tokenizer, TEXTS, "query: ")

    ours = load_encoder(folder)
    assert ours.text == text.model_copy(update={"append_eos": False})  # [SEP] ends each text
    torch.testing.assert_close(embed(ours.encoder, ours.tokenizer, TEXTS, "query: "), want, rtol=0, atol=1e-6)

    theirs = SentenceTransformer(str(folder), device="cpu")
    got = torch.as_tensor(theirs.encode(TEXTS, prompt_name="query"))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)

    plain = transformers.AutoModel.from_pretrained(folder)
    for name, value in encoder.backbone.state_dict().items():
        torch.testing.assert_close(plain.state_dict()[name], value)


def test_sentence_transformers_folder_is_a_model(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder, tokenizer = tiny_encoder(TextSettings(pooling="cls"), dense=True), tiny_tokenizer()
    (tmp_path / "ours").mkdir()
    save_encoder(encoder, tokenizer, tmp_path / "ours")
    theirs = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    loaded = load_encoder(tmp_path / "theirs")
    assert loaded.text.pooling == "cls"
    assert loaded.text.normalize
    assert loaded.encoder.width == 8
    torch.testing.assert_close(
        embed(loaded.encoder, loaded.tokenizer, TEXTS),
        torch.as_tensor(theirs.encode(TEXTS)),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("similarity", "module", "normalize"),
    [
        (None, False, True),  # cosine, says sentence-transformers
        ("cosine", False, True),
        ("dot", False, False),
        ("dot", True, True),
        ("euclidean", True, True),
        ("euclidean", False, None),
        ("manhattan", True, None),
    ],
)
def test_a_folder_without_a_normalize_module_says_how_it_compares(
    similarity: str | None, module: bool, normalize: bool | None, tmp_path: Path
) -> None:
    save_encoder(tiny_encoder(TextSettings(normalize=module)), tiny_tokenizer(), tmp_path)
    (tmp_path / "hbt_dist.json").unlink()
    file = tmp_path / "config_sentence_transformers.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"similarity_fn_name": similarity}))
    if normalize is None:
        with pytest.raises(UserError, match=f"similarity_fn_name '{similarity}' is not supported"):
            load_encoder(tmp_path)
    else:
        assert load_encoder(tmp_path).text.normalize is normalize


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_padding_never_counts(side: str, pooling: str) -> None:
    hidden = torch.randn(1, 5, 4, dtype=torch.float64)
    mask = torch.tensor([[0, 0, 1, 1, 1]]) if side == "left" else torch.tensor([[1, 1, 1, 0, 0]])
    inside = hidden[0, mask[0].bool()]
    want = {"mean": inside.mean(0), "cls": inside[0], "last": inside[-1]}[pooling]
    torch.testing.assert_close(pool(hidden, mask, pooling)[0], want)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match="no such model folder"):
        load_encoder(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        load_encoder(tmp_path)


def test_unsupported_module_is_named(tmp_path: Path) -> None:
    encoder, tokenizer = tiny_encoder(TextSettings()), tiny_tokenizer()
    save_encoder(encoder, tokenizer, tmp_path)
    file = tmp_path / "modules.json"
    file.write_text(file.read_text().replace("models.Normalize", "models.CNN"))
    (tmp_path / "hbt_dist.json").unlink()
    with pytest.raises(UserError, match="'CNN' is not supported"):
        load_encoder(tmp_path)
