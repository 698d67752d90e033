"""Adapters: made, merged, written, and read from folders; what does not fit is refused in one message."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.models.adapters import find_adapter, fingerprint_of, linear_layers, merge_adapter
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.initial import load_start
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import LoraSettings, ModelSettings, TextSettings
from hbt_dist.search.space import Base
from tests.helpers.runs import tiny_run, write_run
from tests.models.kinds import save_kind
from tests.models.test_encoder import tiny_encoder, tiny_tokenizer

TEXTS = ["Which language has most speakers?", "Mikä on Unkarin pääkaupunki?", "a"]
DECODER = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kind(tmp_path_factory.mktemp("base"), "llama", num_hidden_layers=2)


def started(base: Path, seed: int = 3, **lora: Any) -> LoadedEncoder:
    """The encoder with adapters whose update is not zero."""
    loaded = load_start(ModelSettings(name_or_path=str(base), lora=LoraSettings(**lora)), seed, base)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in loaded.encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return loaded


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder of the base."""
    folder = tmp_path_factory.mktemp("adapter")
    loaded = started(base, rank=2, alpha=4.0)
    save_encoder(loaded.encoder, loaded.tokenizer, folder, adapter=loaded.adapter)
    return folder


def vectors(loaded: LoadedEncoder) -> NDArray[np.float32]:
    loaded.encoder.eval()
    rows = []
    for text in TEXTS:
        tokens = loaded.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            rows.append(loaded.encoder(tokens["input_ids"], tokens["attention_mask"])[0].numpy())
    return np.stack(rows)


def test_adapters_of_all_linear_layers_alone_are_trained(base: Path) -> None:
    loaded = load_start(ModelSettings(name_or_path=str(base), lora=LoraSettings(rank=2)), 3, base)
    assert linear_layers(load_encoder(base).encoder.backbone) == DECODER
    trained = {name for name, p in loaded.encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[-4] for name in trained} == set(DECODER)
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in trained)
    np.testing.assert_array_equal(vectors(loaded), vectors(load_encoder(base)))  # the update begins at zero


def test_dense_layers_stay_trainable_and_travel_with_the_adapter(tmp_path: Path) -> None:
    for name in ("base", "adapter"):
        (tmp_path / name).mkdir()
    save_encoder(tiny_encoder(TextSettings(), dense=True), tiny_tokenizer(), tmp_path / "base")
    loaded = started(tmp_path / "base", rank=2)
    trained = {
        name for name, p in loaded.encoder.named_parameters() if p.requires_grad and "lora" not in name
    }
    assert trained == {f"dense.0.linear.{name}" for name in ("weight", "bias")}
    with torch.no_grad():
        loaded.encoder.dense[0].linear.weight.mul_(-2)  # type: ignore[union-attr, operator]
    save_encoder(loaded.encoder, loaded.tokenizer, tmp_path / "adapter", adapter=loaded.adapter)
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "adapter")), vectors(loaded), atol=1e-5)


def test_the_seed_decides_the_first_weights_and_no_other_random_number(base: Path) -> None:
    settings = ModelSettings(name_or_path=str(base), lora=LoraSettings(rank=2, targets=("q_proj",)))
    before = torch.get_rng_state()
    states = [load_start(settings, seed, base).encoder.state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    first = [name for name in states[0] if "lora_A" in name]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not any(torch.equal(states[0][name], states[2][name]) for name in first)


def test_merged_model_has_the_vectors_of_the_adapters(base: Path, tmp_path: Path) -> None:
    loaded = started(base)
    want = vectors(loaded)
    merge_adapter(loaded.encoder.backbone)
    save_encoder(loaded.encoder, loaded.tokenizer, tmp_path)
    np.testing.assert_allclose(vectors(load_encoder(tmp_path)), want, atol=1e-5)
    assert np.abs(vectors(load_encoder(base)) - want).max() > 1e-2


def test_an_adapter_folder_has_equal_vectors_in_four_libraries(base: Path, adapter: Path) -> None:
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    want = vectors(started(base, rank=2, alpha=4.0))
    files = {path.name for path in adapter.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "hbt_dist.json", "modules.json"} <= files
    assert "config.json" not in files
    loaded = load_encoder(adapter)
    np.testing.assert_allclose(vectors(loaded), want, atol=1e-5)
    assert not any("lora" in name for name in loaded.encoder.state_dict())
    library = SentenceTransformer(str(adapter), device="cpu")
    np.testing.assert_allclose(library.encode(TEXTS), want, atol=1e-5)
    with_peft = load_encoder(base)
    with_peft.encoder.backbone = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter)
    np.testing.assert_allclose(vectors(with_peft), want, atol=1e-5)
    with_peft.encoder.backbone = AutoModel.from_pretrained(adapter)
    np.testing.assert_allclose(vectors(with_peft), want, atol=1e-5)


def test_an_adapter_without_settings_has_those_of_its_base(base: Path, adapter: Path, tmp_path: Path) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, tmp_path / name)
    shutil.copytree(base, tmp_path / "base")
    text = {"pooling": "last", "question_prefix": "q: "}
    (tmp_path / "base" / "hbt_dist.json").write_text(json.dumps({"text": text}))
    change(tmp_path, base_model_name_or_path="base")  # relative to the folder
    assert find_adapter(str(tmp_path)).base == str(tmp_path / "base")  # type: ignore[union-attr]
    loaded = load_encoder(tmp_path)
    assert (loaded.text.pooling, loaded.text.question_prefix) == ("last", "q: ")
    assert loaded.notes[0].endswith(
        f"adapter of {tmp_path / 'base'}, which gives tokenizer and text settings"
    )
    assert len(loaded.tokenizer) == len(load_encoder(base).tokenizer)


def test_an_adapter_of_the_hub_and_its_base(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name, folder in (("org/base", base), ("org/adapter", adapter)):
        repository = tmp_path / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / "1234")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("1234")
    change(tmp_path / "models--org--adapter" / "snapshots" / "1234", base_model_name_or_path="org/base")
    loaded = load_start(
        ModelSettings(name_or_path="org/adapter", lora=LoraSettings(rank=2, alpha=4)), 1, base
    )
    assert loaded.adapter is not None
    assert loaded.adapter.base == "org/base"
    np.testing.assert_allclose(vectors(loaded), vectors(load_encoder(adapter)), atol=1e-5)


def change(folder: Path, **keys: Any) -> None:
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps({**config, **keys}), "utf-8")


def test_an_adapter_is_trained_further(base: Path, adapter: Path) -> None:
    settings = ModelSettings(name_or_path=str(adapter), lora=LoraSettings(rank=2, alpha=4, dropout=0.5))
    loaded = load_start(settings, 9, adapter)
    np.testing.assert_allclose(vectors(loaded), vectors(started(base, rank=2, alpha=4.0)), atol=1e-6)
    assert loaded.adapter is not None
    assert loaded.adapter.base == str(base)
    assert loaded.adapter.fingerprint == fingerprint_of(load_encoder(base).encoder.backbone)
    trained = [p for p in loaded.encoder.parameters() if p.requires_grad]
    assert len(trained) == 2 * 7 * 2  # factors, linear layers, transformer layers
    drops = [m.p for name, m in loaded.encoder.named_modules() if "lora_dropout.default" in name]
    assert set(drops) == {0.5}
    merged = load_start(ModelSettings(name_or_path=str(adapter)), 9, adapter)
    assert merged.adapter is None
    assert all(p.requires_grad for p in merged.encoder.parameters())


@pytest.mark.parametrize(
    ("lora", "place", "problem"),
    [
        ({"rank": 4, "alpha": 4}, "model.lora.rank", "is 4, but the adapter of"),
        ({"rank": 2, "alpha": 8}, "model.lora.alpha", "is 8.0, but the adapter of"),
        (
            {"rank": 2, "alpha": 4, "targets": ["q_proj"]},
            "model.lora.targets",
            "further, has [",
        ),
    ],
)
def test_other_settings_than_those_of_the_adapter(
    lora: dict[str, Any], place: str, problem: str, adapter: Path
) -> None:
    settings = ModelSettings(name_or_path=str(adapter), lora=LoraSettings(**lora))
    with pytest.raises(UserError) as raised:
        load_start(settings, 1, adapter)
    assert raised.value.location == place
    assert problem in raised.value.problem


@pytest.mark.parametrize(
    "lora", [{"rank": 0}, {"rank": -1}, {"alpha": 0}, {"alpha": -2}, {"dropout": 1.0}, {"targets": []}]
)
def test_impossible_settings(lora: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraSettings(**lora)


@pytest.mark.parametrize("before", [{}, {"lora": None}, {"lora": {"rank": 4, "alpha": 1}}])
def test_overrides_of_train_and_points_of_a_search_switch_adapters_on(
    before: dict[str, Any], tmp_path: Path
) -> None:
    run = tiny_run(tmp_path, tmp_path, model={"name_or_path": "m", **before})
    base = Base.load(str(write_run(tmp_path / "run.yaml", run)), ["model.lora.rank=8"])
    alpha = (before.get("lora") or {}).get("alpha", 32)
    assert base.run({}, location="space").model.lora == LoraSettings(rank=8, alpha=alpha)
    assert base.run({"model.lora.alpha": 4}, location="space").model.lora == LoraSettings(rank=8, alpha=4)


def test_adapters_of_random_weights_are_refused() -> None:
    with pytest.raises(ValidationError, match="lora needs name_or_path"):
        ModelSettings(scratch={}, lora={})  # type: ignore[arg-type]


def test_unknown_targets_are_refused_before_weights_are_read(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    settings = ModelSettings(name_or_path=str(tmp_path / "m"), lora=LoraSettings(targets=("query",)))
    with pytest.raises(UserError) as raised:
        load_start(settings, 1, tmp_path)
    assert raised.value.problem == "expected linear layers of the model, got 'query'"
    assert ", ".join(DECODER) in raised.value.remedy


def other_kind(folder: Path, base: Path, config: Any) -> None:
    from peft import get_peft_model
    from transformers import AutoModel

    model = get_peft_model(AutoModel.from_pretrained(base), config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1, 0.2)
    model.save_pretrained(folder)


def test_kinds_that_can_be_merged_are_loaded(base: Path, tmp_path: Path) -> None:
    from peft import IA3Config, PeftModel
    from transformers import AutoModel

    ia3 = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    other_kind(tmp_path, base, ia3)
    want = load_encoder(base)
    want.encoder.backbone = PeftModel.from_pretrained(AutoModel.from_pretrained(base), tmp_path)
    np.testing.assert_allclose(vectors(load_encoder(tmp_path)), vectors(want), atol=1e-5)
    assert np.abs(vectors(want) - vectors(load_encoder(base))).max() > 1e-3
    with pytest.raises(UserError, match="only a plain LoRA adapter can be trained further, got IA3"):
        load_start(ModelSettings(name_or_path=str(tmp_path), lora=LoraSettings()), 1, tmp_path)


def test_kinds_that_cannot_be_merged_are_refused_by_name(base: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig

    other_kind(tmp_path, base, PromptTuningConfig(num_virtual_tokens=2, task_type="FEATURE_EXTRACTION"))
    with pytest.raises(UserError, match="got kind PROMPT_TUNING"):
        load_encoder(tmp_path)


def with_wider_base(folder: Path) -> None:
    save_kind(folder / "wide", "llama", num_hidden_layers=2, hidden_size=32)
    change(folder, base_model_name_or_path="wide")


def with_changed_base(folder: Path) -> None:
    loaded = load_encoder(json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"])
    with torch.no_grad():
        next(iter(loaded.encoder.parameters())).mul_(1.1)
    (folder / "b").mkdir()
    save_encoder(loaded.encoder, loaded.tokenizer, folder / "b")
    change(folder, base_model_name_or_path="b")


def with_foreign_names(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "adapter_model.safetensors"
    weights = {name.replace("model.layers", "model.model.layers"): w for name, w in load_file(file).items()}
    save_file(weights, file, {"format": "pt"})


def with_weights_of_a_model(folder: Path) -> None:
    shutil.copy(folder / "adapter_model.safetensors", folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (with_wider_base, "does not belong to its base .*: .* has shape"),
        (with_changed_base, "its weights differ from those that the adapter was trained on"),
        (with_foreign_names, "weights do not fit, the (base needs|file has) base_model.model"),
        (with_weights_of_a_model, "holds a whole model and an adapter of"),
        (
            lambda folder: change(folder, base_model_name_or_path="/no/such"),
            "model /no/such does not exist",
        ),
        (lambda folder: change(folder, base_model_name_or_path=None), "names no base model"),
        (lambda folder: change(folder, peft_type="NEWEST"), "peft cannot read it"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "no such file"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 9), "is damaged or cut"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "is not JSON"),
    ],
)
def test_what_does_not_fit(
    damage: Callable[[Path], Any], problem: str, adapter: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    damage(folder)
    if damage is with_wider_base:  # its shapes, not its fingerprint
        (folder / "hbt_dist.json").unlink()
    with pytest.raises(UserError, match=problem):
        load_encoder(folder)
