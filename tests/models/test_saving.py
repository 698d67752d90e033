"""An exported folder loads without a message, and its files are as readable as the umask says."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from hbt_dist.common.files import atomic_folder
from hbt_dist.models.initial import _random_encoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import ScratchSettings, TextSettings
from tests.models.kinds import KINDS, save_kind, word_pieces

SAVED_KINDS = {
    **KINDS,
    "distilbert": (word_pieces, {}),
    "electra": (word_pieces, {"embedding_size": 16}),
}
#: Loads each folder with both libraries, whose warnings go to stderr.
LOADS = """
import sys
import transformers
from sentence_transformers import SentenceTransformer
for folder in sys.argv[1:]:
    transformers.AutoModel.from_pretrained(folder)
    SentenceTransformer(folder, device="cpu").encode(["a"])
"""


@pytest.fixture(autouse=True)
def _more_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, facts in SAVED_KINDS.items():
        monkeypatch.setitem(KINDS, kind, facts)


def exported(folder: Path, kind: str, *, with_pooler: bool = True) -> Path:
    """Export a start model; its file may lack the pooler, as many published ones do."""
    start = save_kind(folder / f"{kind}-{with_pooler}", kind)
    if not with_pooler:
        weights = load_file(start / "model.safetensors")
        weights = {name: value for name, value in weights.items() if "pooler" not in name}
        save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    loaded = load_encoder(start, quiet=True)
    assert not [name for name, _ in loaded.encoder.named_parameters() if "pooler" in name]
    with atomic_folder(folder / f"{kind}-{with_pooler}-model") as model:
        save_encoder(loaded.encoder, loaded.tokenizer, model)
    return folder / f"{kind}-{with_pooler}-model"


@pytest.mark.parametrize("kind", SAVED_KINDS)
def test_every_weight_that_the_library_expects_is_in_the_file(kind: str, tmp_path: Path) -> None:
    for with_pooler in (True, False):
        folder = exported(tmp_path, kind, with_pooler=with_pooler)
        _, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] | report["unexpected_keys"]


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_a_scratch_model_names_tokens_of_its_vocabulary(kind: str) -> None:
    """transformers warns of ids outside the vocabulary, such as 50281, ModernBERT's default."""
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=word_pieces(), pad_token="<pad>", cls_token="<s>", sep_token="</s>"
    )
    settings = ScratchSettings(architecture={"model_type": kind, "hidden_size": 8, "num_attention_heads": 2})
    config = _random_encoder(settings, TextSettings(), 0, tokenizer).backbone.config
    ids = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep")]
    assert all(number is None or number < len(tokenizer) for number in ids), ids
    assert (config.pad_token_id, config.sep_token_id) == (tokenizer.pad_token_id, tokenizer.sep_token_id)


def test_the_pooler_is_that_of_the_start_model_or_passes_through(tmp_path: Path) -> None:
    weights = load_file(exported(tmp_path, "xlm-roberta") / "model.safetensors")
    start = load_file(tmp_path / "xlm-roberta-True" / "model.safetensors")
    names = ["pooler.dense.bias", "pooler.dense.weight"]
    assert sorted(name for name in weights if "pooler" in name) == names
    for name in names:
        torch.testing.assert_close(weights[name], start[name], rtol=0, atol=0)
    folder = exported(tmp_path, "xlm-roberta", with_pooler=False)
    output = transformers.AutoModel.from_pretrained(folder)(torch.tensor([[0, 5, 2]]))
    torch.testing.assert_close(output.pooler_output, output.last_hidden_state[:, 0].tanh())
    again = load_encoder(folder, quiet=True)
    torch.testing.assert_close(again.encoder.backbone.removed_pooler["pooler.dense.weight"], torch.eye(16))


@pytest.mark.slow
def test_loading_prints_nothing(tmp_path: Path) -> None:
    kinds = ("bert", "xlm-roberta", "distilbert", "electra", "llama")
    folders = [exported(tmp_path, kind, with_pooler=kind != "bert") for kind in kinds]
    environment = {**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    environment.pop("TRANSFORMERS_VERBOSITY", None)
    command = [sys.executable, "-c", LOADS, *map(str, folders)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    assert (ended.stdout, ended.stderr) == ("", "")
    bare = load_file(folders[0] / "model.safetensors")
    del bare["pooler.dense.bias"]
    save_file(bare, folders[0] / "model.safetensors", metadata={"format": "pt"})
    ended = subprocess.run(
        command[:4], capture_output=True, text=True, env=environment, timeout=300, check=True
    )
    assert "newly initialized" in ended.stderr, "the test can see a message"


@pytest.mark.parametrize(("mask", "expected"), [(0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_files_are_as_readable_as_the_umask_says(mask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        folder = exported(tmp_path, "bert")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*") if file.is_file()}
    assert modes == {expected}
    assert "model.safetensors" in {file.name for file in folder.iterdir()}
