"""Merged weights are those of the formula, in a folder that every library reads."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial import geometric_slerp

from hbt_dist.common.errors import UserError
from hbt_dist.jobs.merge import merge_job, parse_weights
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.merging import slerp
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings
from tests.models.test_encoder import TEXTS, embed, tiny_encoder, tiny_tokenizer

WEIGHTS = "model.safetensors"


#: Made once: its trainer breaks ties by the order of a hash map.
tokenizer = functools.cache(tiny_tokenizer)


def save_model(folder: Path, seed: int, *, text: TextSettings | None = None, facts: Any = None) -> Path:
    """A model with a dense layer whose weights are drawn with `seed`."""
    encoder = tiny_encoder(text or TextSettings(question_prefix="query: "), dense=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    folder.mkdir(parents=True)
    save_encoder(encoder, tokenizer(), folder, facts=facts)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("trained")
    return [
        save_model(root / f"m{seed}", seed, facts={"languages": [code], "steps": seed})
        for seed, code in enumerate(("en", "fi", "hu"))
    ]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, of the backbone and of the dense layer."""
    return {
        f"{file.parent.name if file.parent != folder else ''}/{name}": tensor
        for file in folder.rglob(WEIGHTS)
        for name, tensor in load_file(file).items()
    }


def test_an_average_is_that_of_a_plain_loop(trained: list[Path], tmp_path: Path) -> None:
    merge_job(trained, "0.5,0.3,0.2", tmp_path / "merged", "average")
    parts = [weights_of(folder) for folder in trained]
    merged = weights_of(tmp_path / "merged")
    assert merged.keys() == parts[0].keys()
    assert "2_Dense/linear.weight" in merged
    for name, tensor in merged.items():
        expected = sum(w * part[name].double() for w, part in zip((0.5, 0.3, 0.2), parts, strict=True))
        torch.testing.assert_close(tensor, expected.float(), rtol=1e-6, atol=1e-7)  # half a unit of float32
    wrong = sum(part["2_Dense/linear.weight"] for part in parts) / 3
    assert (merged["2_Dense/linear.weight"] - wrong).abs().max() > 0.01, "other weights give another model"


def test_slerp_is_the_formula_of_numpy_and_scipy(trained: list[Path], tmp_path: Path) -> None:
    merge_job(trained[:2], "0.7,0.3", tmp_path / "merged", "slerp")
    merged, x, y = (weights_of(folder) for folder in (tmp_path / "merged", *trained[:2]))
    for name, tensor in merged.items():
        a, b = (part[name].double().numpy().ravel() for part in (x, y))
        if not a.any():  # the pooler's bias
            assert not tensor.any()
            continue
        cosine = a @ b / np.sqrt((a @ a) * (b @ b))
        angle = np.arccos(cosine)
        expected = (np.sin(0.7 * angle) * a + np.sin(0.3 * angle) * b) / np.sin(angle)
        if abs(cosine) > 0.9995:
            expected = 0.7 * a + 0.3 * b
        np.testing.assert_allclose(tensor.numpy().ravel(), expected, rtol=1e-6, atol=1e-7, err_msg=name)
    start, end = (v / np.linalg.norm(v) for v in (a, b))
    result = slerp(torch.tensor(start), torch.tensor(end), 0.3)
    np.testing.assert_allclose(result, geometric_slerp(start, end, 0.3), atol=1e-12)


@pytest.mark.parametrize("factor", [1.0, 1.0001, -1.0, 0.0])
def test_slerp_of_parallel_tensors_is_the_average(factor: float) -> None:
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(x, factor * x, 0.25), (0.75 + 0.25 * factor) * x.double())


@pytest.mark.parametrize(
    ("number", "weights", "method"),
    [
        (2, None, "average"),
        (3, "1/3,1/3,1/3", "average"),
        (4, "0.1,0.2,0.3,0.4", "average"),
        (2, None, "slerp"),
    ],
)
def test_a_model_merged_with_itself_has_the_same_bytes(
    number: int, weights: str | None, method: Any, trained: list[Path], tmp_path: Path
) -> None:
    merge_job([trained[0]] * number, weights, tmp_path / "merged", method)
    for name in (WEIGHTS, f"2_Dense/{WEIGHTS}", "config.json", "tokenizer.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (trained[0] / name).read_bytes()


def test_libraries_read_the_merged_folder_with_equal_vectors(trained: list[Path], tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    merge_job(trained[:2], "0.25,0.75", tmp_path / "merged", "average")
    loaded = load_encoder(tmp_path / "merged")
    library = SentenceTransformer(str(tmp_path / "merged"), device="cpu")
    vectors = embed(loaded.encoder, loaded.tokenizer, TEXTS, "query: ")
    np.testing.assert_allclose(library.encode(TEXTS, prompt_name="query"), vectors, atol=1e-6)
    assert isinstance(loaded.encoder, Encoder)
    assert loaded.facts["languages"] == ["en", "fi"]
    merged = loaded.facts["merged"]
    assert (merged["method"], [model["weight"] for model in merged["models"]]) == ("average", ["1/4", "3/4"])
    assert [model["training"]["steps"] for model in merged["models"]] == [0, 1]
    assert len({model["sha256"][WEIGHTS] for model in merged["models"]}) == 2
    card = (tmp_path / "merged" / "README.md").read_text("utf-8")
    assert "the weighted average of 2 models" in card
    assert f"| `{trained[1]}` | 3/4 | 1 |" in card


def test_weights_in_several_files_and_stale_copies(trained: list[Path], tmp_path: Path) -> None:
    """One model is sharded and holds weights of other libraries, which the merge would leave stale."""
    sharded = tmp_path / "sharded"
    shutil.copytree(trained[0], sharded)
    state = load_file(sharded / WEIGHTS)
    (sharded / WEIGHTS).unlink()
    names = sorted(state)
    parts = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, sharded / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (sharded / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (sharded / "onnx").mkdir()
    (sharded / "onnx" / "model.onnx").write_bytes(b"stale")
    (sharded / "pytorch_model.bin").write_bytes(b"stale")
    merge_job([sharded, trained[1]], None, tmp_path / "merged", "average")
    merge_job(trained[:2], None, tmp_path / "plain", "average")
    got, expected = (
        load_encoder(tmp_path / name, quiet=True).encoder.state_dict() for name in ("merged", "plain")
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert not [path for path in (tmp_path / "merged").rglob("*") if path.suffix in (".bin", ".onnx")]


@pytest.mark.parametrize(
    ("weights", "count", "method", "problem"),
    [
        ("0.5,0.4", 2, "average", "expected weights whose sum is 1, got 0.9"),
        ("1.5,-0.5", 2, "average", "expected weights of 0 or more, got -0.5"),
        ("0.5,0.5", 3, "average", "expected a weight for each of 3 models, got 2"),
        ("half,half", 2, "average", "expected numbers such as 0.5,0.5 or 1/3,2/3, got 'half,half'"),
        ("1/0,1", 2, "average", "expected numbers such as 0.5,0.5 or 1/3,2/3, got '1/0,1'"),
        ("nan,1", 2, "average", "expected numbers such as 0.5,0.5 or 1/3,2/3, got 'nan,1'"),
        (None, 1, "average", "expected two or more models, got 1"),
        (None, 3, "slerp", "expected two models, got 3"),
    ],
)
def test_weights_that_make_no_average_are_refused(
    weights: str | None, count: int, method: Any, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        merge_job([Path("absent")] * count, weights, tmp_path / "merged", method)
    assert refused.value.problem == problem
    if "0.4" in (weights or ""):
        assert refused.value.remedy == "for these proportions: --weights 5/9,4/9"
    assert parse_weights("5/9,4/9", 2, "average") == [Fraction(5, 9), Fraction(4, 9)]


def change_json(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | keys), "utf-8")


def other_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.get)
    vocabulary["another"] = vocabulary.pop(last)
    (folder / "tokenizer.json").write_text(json.dumps(content), "utf-8")


def other_text(folder: Path) -> None:
    settings = json.loads((folder / "hbt_dist.json").read_text("utf-8"))
    settings["text"]["question_prefix"] = "Q: "
    (folder / "hbt_dist.json").write_text(json.dumps(settings), "utf-8")


def cut_vocabulary(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    name = "embeddings.word_embeddings.weight"
    save_file({**state, name: state[name][:100].clone()}, folder / WEIGHTS, metadata={"format": "pt"})
    change_json(folder / "config.json", vocab_size=100)


def half_precision(folder: Path) -> None:
    state = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            lambda f: change_json(f / "config.json", model_type="roberta"),
            "config.json .* model_type: expected bert, got",
        ),
        (cut_vocabulary, "config.json .* vocab_size: expected 120, got 100"),
        (other_tokenizer, "its tokenizer differs from that of"),
        (other_text, "text settings .* question_prefix: expected query: , got Q: "),
        (half_precision, r"weights .* expected F32 \[64\]|weights .* expected F32 .*, got BF16 .* more"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "holds an adapter: expected a whole model"),
        (lambda f: (f / "config.json").unlink(), "it has no config.json"),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "has no model.safetensors"),
        (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "is damaged or cut"),
        (shutil.rmtree, "no such folder"),
        (lambda f: (f / "run.yaml").write_text("{}"), "a run that has no trained model yet"),
    ],
)
def test_models_that_differ_are_refused_by_name(
    change: Callable[[Path], Any], problem: str, trained: list[Path], tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(trained[1], changed)
    change(changed)
    with pytest.raises(UserError, match=problem) as refused:
        merge_job([trained[0], changed], None, tmp_path / "merged", "average")
    assert str(changed) in refused.value.location
    assert refused.value.remedy
    assert sorted(path.name for path in tmp_path.iterdir()) == [changed.name] * changed.exists()


def test_a_target_in_use_is_refused(trained: list[Path], tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(UserError, match="exists and is not empty"):
        merge_job(trained, None, tmp_path, "average")
    assert (tmp_path / "precious").read_text() == "x"
