"""Small benchmarks and embeddings that are hard to rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings

MakeBenchmark = Callable[..., Benchmark]


def make(
    *,
    seed: int = 0,
    languages: tuple[str, ...] = ("en", "fi", "zh"),
    num_ids: int = 20,
    per_language: int = 40,
    relevant_per_language: int = 1,
    shuffled: bool = False,
    missing: float = 0.0,
    grades: tuple[float, ...] = (1.0,),
) -> Benchmark:
    """Parallel questions with relevant candidates in every language.

    `shuffled` interleaves the languages of the candidates and gives them ids without language; `missing` is
    the share of (id, language) pairs that don't exist, as in MLQA-R; `grades` are drawn from.
    """
    rng = np.random.default_rng(seed)
    size = len(languages)
    candidate_language = np.repeat(np.arange(size), per_language)
    if shuffled:
        candidate_language = rng.permutation(candidate_language)
    counter = [0] * size
    ids = []
    for row, language in enumerate(candidate_language.tolist()):
        prefix = f"{(row * 7919) % 1009:04d}" if shuffled else languages[language]
        ids.append(f"{prefix}-{languages[language]}-{counter[language]:04d}")
        counter[language] += 1
    there = rng.random((num_ids, size)) >= missing
    there[np.arange(num_ids), rng.integers(0, size, num_ids)] = True
    gold = [
        [
            rng.choice(np.flatnonzero(candidate_language == k), relevant_per_language, replace=False)
            for k in range(size)
        ]
        for _ in range(num_ids)
    ]
    rows = [(i, k) for k in range(size) for i in range(num_ids) if there[i, k]]
    relevant = [np.sort(np.concatenate([gold[i][k] for k in range(size) if there[i, k]])) for i, _ in rows]
    return Benchmark(
        name="made-up",
        variant="test",
        languages=languages,
        question_ids=[f"q{i:03d}" for i, _ in rows],
        question_language=np.array([k for _, k in rows], np.int32),
        question_texts=[f"question {i} {k}" for i, k in rows],
        question_cluster=np.array([i // 3 for i, _ in rows], np.int64),
        candidate_ids=ids,
        candidate_language=candidate_language.astype(np.int32),
        candidate_texts=[f"candidate {i}" for i in ids],
        relevant_offsets=np.concatenate([[0], np.cumsum([len(r) for r in relevant])]).astype(np.int64),
        relevant=np.concatenate(relevant).astype(np.int64),
        grades=rng.choice(np.array(grades, np.float64), sum(map(len, relevant))),
    )


@pytest.fixture(scope="session")
def make_benchmark() -> MakeBenchmark:
    return make


def embeddings(kind: str, rows: int, seed: int, width: int = 24) -> np.ndarray:
    """Vectors of one kind; never all zero.

    `small integers` and the like have exact inner products, so that an independent reference sees the same
    ties; `random` and `duplicates` are ordinary float32 numbers.
    """
    rng = np.random.default_rng(seed)
    if kind == "random":
        return rng.standard_normal((rows, width)).astype(np.float32)
    if kind == "duplicates":  # ordinary numbers, every vector about five times
        pool = rng.standard_normal((max(1, rows // 5), width)).astype(np.float32)
        return pool[rng.integers(0, len(pool), rows)]
    exact = {
        "mass ties": lambda: rng.integers(0, 2, (rows, width)) * np.eye(1, width) + np.eye(1, width, 1),
        "negative": lambda: -rng.integers(1, 4, (rows, width)),
        "one-dimensional": lambda: rng.choice([-2.0, -1.0, 1.0, 2.0, 3.0], (rows, 1)),
        "float16": lambda: rng.integers(-8, 9, (rows, width)) / 8 + 2,
        "constant": lambda: np.ones((rows, width)),
    }
    return exact[kind]().astype(np.float16 if kind == "float16" else np.float32)


KINDS = ("random", "duplicates", "mass ties", "negative", "one-dimensional", "float16", "constant")


@pytest.fixture(scope="session")
def make_embeddings() -> Callable[..., np.ndarray]:
    return embeddings


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def save_tiny_model(folder: Path) -> Path:
    """Write a model folder with random weights that takes milliseconds to run."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special)
    tokenizer.train_from_iterator(["question candidate en fi zh 0123456789 -"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    text = TextSettings(question_prefix="question: ", max_question_tokens=12, max_passage_tokens=24)
    encoder = Encoder(transformers.BertModel(config, add_pooling_layer=False), text).eval()
    folder.mkdir()
    save_encoder(encoder, fast, folder, card="# tiny\n")
    return folder
