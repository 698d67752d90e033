"""The parts of a model with separate learning rates: which parameters, in which models, through a resume.

tests/training/test_engine.py compares three steps with groups that are made by hand.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.head import DenseLayer
from hbt_dist.models.settings import TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.optimizer import parameter_groups
from hbt_dist.training.parts import describe, divide, freeze
from hbt_dist.training.settings import OptimizerSettings, PartSettings
from tests.contrastive.tiny import Case, build_encoder
from tests.helpers.faults import fault
from tests.helpers.runs import losses, tiny_run, weights_digest
from tests.training.conftest import Launch

SIZES = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
}
IDS = {f"{name}_token_id": 1 for name in ("pad", "bos", "eos", "cls", "sep")}
BERT_FRONT = tuple(f"embeddings.{name}" for name in ("position", "token_type", "LayerNorm"))
#: Architecture -> (keys of its configuration, names in front of the layers, of layer 2, behind the layers).
KINDS: dict[str, tuple[dict[str, Any], tuple[str, ...], str, tuple[str, ...]]] = {
    "bert": ({}, BERT_FRONT, "encoder.layer.1.", ()),
    "xlm-roberta": ({}, BERT_FRONT, "encoder.layer.1.", ()),
    "modernbert": (IDS, ("embeddings.norm",), "layers.1.", ("final_norm",)),
    "distilbert": (
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 24},
        ("embeddings.position", "embeddings.LayerNorm"),
        "transformer.layer.1.",
        (),
    ),
    "llama": ({}, (), "layers.1.", ("norm.",)),
    "qwen3": ({"head_dim": 8}, (), "layers.1.", ("norm.",)),
    "gpt2": ({"n_embd": 16, "n_layer": 3, "n_head": 2, **IDS}, ("wpe",), "h.1.", ("ln_f",)),
}


def backbone_of(kind: str, **keys: Any) -> nn.Module:
    config = transformers.AutoConfig.for_model(kind, **{**SIZES, **keys})
    try:
        return transformers.AutoModel.from_config(config, add_pooling_layer=False)  # type: ignore[no-any-return]
    except TypeError:
        return transformers.AutoModel.from_config(config)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_an_architecture(kind: str) -> None:
    keys, front, second, behind = KINDS[kind]
    backbone: Any = backbone_of(kind, **keys)
    encoder = Encoder(backbone, TextSettings(), [DenseLayer(nn.Linear(16, 8), nn.Tanh())])
    parts = divide(encoder, PartSettings(embedding_rate=0.1, layer_decay=0.5, head_rate=3))
    factors = {id(p): part.factor for part in parts for p in part.parameters}
    assert len(factors) == sum(len(part.parameters) for part in parts) == len(list(encoder.parameters()))
    for name, parameter in backbone.named_parameters():
        if parameter is backbone.get_input_embeddings().weight:
            want = 0.1 * 0.5**3
        elif name.startswith(front) and front:
            want = 0.5**3
        else:
            want = 0.5 if name.startswith(second) else 1.0 if name.startswith(behind) and behind else 0.0
        if want:
            assert factors[id(parameter)] == pytest.approx(want), name
    layers = [part for part in parts if part.name.startswith("layer ")]
    assert [part.factor for part in layers] == [0.25, 0.5, 1.0]
    assert {factors[id(p)] for p in encoder.dense.parameters()} == {3}
    settings = OptimizerSettings(learning_rate=1.0, parts=PartSettings(layer_decay=0.5))
    groups = parameter_groups(encoder, settings)
    assert {group["lr"] for group in groups} == {0.125, 0.25, 0.5, 1.0}
    assert len({id(p) for group in groups for p in group["params"]}) == len(factors)


def test_adapters_learn_at_the_rate_of_their_layer() -> None:
    encoder = build_encoder(Case(model="lora", layers=2))
    settings = OptimizerSettings(learning_rate=1.0, parts=PartSettings(layer_decay=0.5))
    rates = {id(p): group["lr"] for group in parameter_groups(encoder, settings) for p in group["params"]}
    trained = {name: rates[id(p)] for name, p in encoder.named_parameters() if p.requires_grad}
    assert trained
    assert all(rate == (0.5 if ".layer.0." in name else 1.0) for name, rate in trained.items())


def test_shared_word_embeddings_are_in_one_part() -> None:
    config = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=24, num_layers=3, num_heads=2)
    model: Any = transformers.T5EncoderModel(config)
    model.second = model.shared
    parts = divide(model, PartSettings(freeze_embeddings=True))
    assert [part.factor for part in parts if any(p is model.shared.weight for p in part.parameters)] == [0]
    freeze(parts)
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["shared.weight"]


def test_first_layers_are_frozen_with_all_in_front_of_them() -> None:
    model = backbone_of("bert")
    parts = divide(model, PartSettings(freeze_layers=2))
    freeze(parts)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("encoder.layer.2.")}
    assert describe(parts, 1e-4) == (
        "parts: word embeddings 480 parameters frozen; rest in front of the layers 8,256 parameters frozen; "
        "layers 1 to 3 1,960 parameters at 0.0001; layers 1 to 3 3,920 parameters frozen"
    )


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("albert", {"layer_decay": 0.9}, "parts: expected a stack of 3 layers in AlbertModel, got 0"),
        ("xlm", {"freeze_layers": 1}, "expected a stack of 3 layers in XLMModel, got 0"),
        ("bert", {"freeze_layers": 4}, "freeze_layers: expected at most 3, the layers of BertModel, got 4"),
        ("bert", {"head_rate": 2}, "head_rate: BertModel has no dense layers behind its pooling"),
        ("bert", {"freeze_layers": 3}, "optimizer.parts: freezes the whole model"),
        ("linear", {"freeze_embeddings": True}, "freeze_embeddings: Linear has no word embeddings"),
    ],
)
def test_parts_that_a_model_does_not_have_are_refused(
    model: str, settings: dict[str, Any], message: str
) -> None:
    keys = {"emb_dim": 16, "n_layers": 3, "n_heads": 2} if model == "xlm" else {"embedding_size": 8}
    encoder = nn.Linear(2, 2) if model == "linear" else backbone_of(model, **keys if model != "bert" else {})
    with pytest.raises(UserError) as caught:
        freeze(divide(encoder, PartSettings(**settings)))
    assert message in str(caught.value)


def test_a_rate_of_frozen_embeddings_is_refused() -> None:
    for frozen in ({"freeze_embeddings": True}, {"freeze_layers": 1}):
        with pytest.raises(ValidationError, match="embedding_rate is set, but freeze_embeddings"):
            PartSettings(embedding_rate=0.1, **frozen)  # type: ignore[arg-type]


@pytest.mark.parametrize("parts", [{"embedding_rate": 0.1}, {"freeze_embeddings": True}])
def test_word_embeddings_below_adapters_are_refused_as_a_part(parts: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny_run(tmp_path, tmp_path, model={"name_or_path": "organisation/model", "lora": {}})
    RunFile.model_validate({**settings, "optimizer": {"parts": {"layer_decay": 0.5, "head_rate": 2}}})
    with pytest.raises(ValidationError, match=f"parts.{next(iter(parts))} changes nothing with model.lora"):
        RunFile.model_validate({**settings, "optimizer": {"parts": parts}})


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 1, 2, 3])
def test_a_resumed_run_equals_an_uninterrupted_run(stage: int | None, launch: Launch, tmp_path: Path) -> None:
    """Bitwise, with frozen embeddings and a group per layer; the log has one line on the parts."""
    parts = {"layer_decay": 0.5, "freeze_embeddings": True}
    changes = {"deepspeed__config": stage, "optimizer__parts": parts, "training__steps": 4}
    reference_file, reference = launch.file(tmp_path / "reference", **changes)
    launch.finish(reference_file, 2)
    file, output = launch.file(tmp_path / "killed", **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=0,step=3,where=before_forward"))
    assert group.wait()[0] == -signal.SIGKILL, group.error()
    launch.finish(file, 2)
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)
    assert words(output) == words(launch.start_model, "")
    log = (output / "log.txt").read_text("utf-8")
    assert "word embeddings 12,800 parameters frozen; rest in front of the layers" in log
    assert "continuing from the checkpoint of step 2" in log


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_frozen_parts_with_another_number_of_workers(stage: int, launch: Launch, tmp_path: Path) -> None:
    parts = {"layer_decay": 0.5, "freeze_embeddings": True}
    changes = {"deepspeed__config": stage, "optimizer__parts": parts, "training__steps": 4}
    file, output = launch.file(tmp_path, **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=0,step=2,where=between_save_and_report"))
    assert group.wait()[0] == -signal.SIGKILL, group.error()
    launch.finish(file, 1)
    assert "was written by 2 workers; converted for 1" in (output / "log.txt").read_text("utf-8")
    assert words(output) == words(launch.start_model, "")
    reference_file, reference = launch.file(tmp_path / "reference", **changes)
    launch.finish(reference_file, 1)
    np.testing.assert_allclose(losses(output)[2:], losses(reference)[2:], rtol=0.2)


def words(folder: Path, model: str = "model") -> bytes:
    """The word embeddings of a model folder."""
    from safetensors.torch import load_file

    weights = load_file(folder / model / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    assert isinstance(weights[name], torch.Tensor)
    return weights[name].numpy().tobytes()
