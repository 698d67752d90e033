"""A tiny causal language model with random weights, and a small benchmark to expand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.methods.expansion.generate import LoadedGenerator, load_generator
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings
from tests.evaluation.conftest import kind, make_benchmark, make_embeddings, tiny_model

__all__ = ["kind", "make_benchmark", "make_embeddings", "tiny_model"]

CHAT = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %} [you]{% endif %}"
)


def byte_tokenizer(**special: str) -> transformers.PreTrainedTokenizerFast:
    """Every byte is a token: no training, any language."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = list(dict.fromkeys(special.values()))
    vocabulary = {one: i for i, one in enumerate([*names, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def write_language_model(folder: Path, chat: bool = False) -> Path:
    tokenizer = byte_tokenizer(eos_token="<end>")
    if chat:
        tokenizer.chat_template = CHAT
    torch.manual_seed(3)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=1024,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,  # wide, so that its distributions are not flat
        eos_token_id=0,
        bos_token_id=0,
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("models") / "lm")


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_language_model(tmp_path_factory.mktemp("models") / "chat", chat=True)


@pytest.fixture(scope="session")
def generator(language_model: Path) -> LoadedGenerator:
    return load_generator(str(language_model), device="cpu")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level encoder with random weights."""
    tokenizer = byte_tokenizer(pad_token="<pad>", unk_token="<unk>")
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=200,
    )
    text = TextSettings(pooling="mean", question_prefix="q: ", passage_prefix="p: ", max_question_tokens=40)
    folder = tmp_path_factory.mktemp("models") / "encoder"
    folder.mkdir()
    save_encoder(
        Encoder(transformers.BertModel(config, add_pooling_layer=False), text).eval(),
        tokenizer,
        folder,
        card="# t\n",
    )
    return folder


@pytest.fixture(scope="session")
def benchmark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six questions and twelve candidates in English and Finnish."""
    folder = tmp_path_factory.mktemp("data") / "own"
    folder.mkdir()
    questions = [
        {"id": f"q{i}", "language": code, "text": f"{word} {i}{'?' * (i + 1)}", "relevant": [f"p{i}"]}
        for code, word in (("en", "Where is town"), ("fi", "Missä on kaupunki"))
        for i in range(6)
    ]
    candidates = [
        {"id": f"p{i}", "language": code, "text": f"{word} {i * 7919 % 101}"}
        for code, word in (("en", "The town lies by river"), ("fi", "Kaupunki on joen varrella"))
        for i in range(12)
    ]
    for name, rows in (("questions", questions), ("candidates", candidates)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="session")
def benchmark(benchmark_folder: Path) -> Benchmark:
    return load_benchmark("jsonl", benchmark_folder)
