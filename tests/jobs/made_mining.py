"""A corpus, a model and a judge to mine with, written in a second: bags of eight words in three languages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tests.odd_inputs.tiny_model import WORDS, save_bag_of_words

LANGUAGES = ("en", "fi", "hu")


def lines(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Examples whose passages are random words; some passages lack a language."""
    rng = np.random.default_rng(seed)

    def text(length: int) -> str:
        return " ".join(rng.choice(WORDS, length).tolist())

    return [
        {
            "id": f"q{number}",
            "question": {code: text(3) for code in LANGUAGES},
            "passage": {code: text(6) for code in LANGUAGES if code != "hu" or number % 3},
            "passage_id": f"p{number}",
        }
        for number in range(count)
    ]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def mine_file(folder: Path, count: int = 40, **changes: Any) -> Path:
    """Write data, model and the file of `hbt-dist mine` into a folder; the output is `out` in it."""
    content: dict[str, Any] = {
        "output_dir": str(folder / "out"),
        "data": {
            "sources": [{"name": "made", "format": "jsonl", "path": str(folder / "train.jsonl")}],
            "missing": "skip",
            "cache_dir": str(folder / "cache"),
        },
        "model": {"name_or_path": str(folder / "model")},
        "mining": {"count": 3, "examples_per_block": 10, "encoding": {"rows_per_file": 32}},
        "workers": {"address": "local", "start_timeout_seconds": 200},
    }
    folder.mkdir(exist_ok=True)
    write_lines(folder / "train.jsonl", lines(count))
    if not (folder / "model").exists():
        save_bag_of_words(folder / "model")
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(merged(content, changes)), "utf-8")
    return file


def merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with changes."""
    result = dict(content)
    for key, value in changes.items():
        inner = result.get(key)
        both = isinstance(value, dict) and isinstance(inner, dict)
        result[key] = merged(inner, value) if both else value
    return result


def save_cross_encoder(folder: Path, model: Path, labels: int = 1) -> Path:
    """Write a cross-encoder with the tokenizer of a model and random weights."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=labels,
        initializer_range=0.5,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of negatives."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
