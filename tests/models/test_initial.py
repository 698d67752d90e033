"""A model from scratch is the same every time it is built: tokenizer, vocabulary and weights."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.models.initial import ModelSettings, prepare_model
from tests.helpers.runs import tiny_run
run = tiny_run(Path("out"), Path(sys.argv[1]))
corpus = build_corpus(DataSettings.model_validate(run["data"]), Path(sys.argv[1]))
loaded = prepare_model(ModelSettings.model_validate(run["model"]), corpus, 3, Path(sys.argv[2]))
text = "Mikä on maan nimeltä Suomi virallinen kieli? 通貨は何ですか"
pieces = loaded.tokenizer.tokenize(text)
assert loaded.tokenizer.unk_token not in pieces[:6], pieces
assert pieces[0].startswith("\\u2581")
"""


def digest(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_three_processes_build_the_same_model(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for number in range(3):
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "cache"), str(tmp_path / f"start{number}")]
        subprocess.run(command, check=True, cwd=root, timeout=200)
    first, *others = (digest(tmp_path / f"start{number}") for number in range(3))
    assert {"tokenizer.json", "model.safetensors", "hbt_dist.json"} <= set(first)
    assert all(other == first for other in others)
