"""The model card: metadata that the hub reads, and figures of the run's evaluations."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from hbt_dist.models.card import base_metadata
from hbt_dist.models.settings import TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.card import add_results, card_with_results, model_card
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import tiny_run

CORPUS: Any = SimpleNamespace(datasets=["sample"], num_examples=12, fingerprint="c" * 64, prefixes=(None,))
PLAN: Any = SimpleNamespace(languages=["fi", "en"], fingerprint="p" * 64)


def run_from(tmp_path: Path, name_or_path: str, **changes: Any) -> RunFile:
    model = {"name_or_path": name_or_path, "lora": {"rank": 8, "targets": ["query"]}}
    return RunFile.model_validate(tiny_run(tmp_path / "out", tmp_path / "cache", model=model, **changes))


def write_results(folder: Path, name: str, monolingual: float) -> None:
    folder.mkdir(parents=True)
    means = {setting: {"macro": {"map": 0.25}} for setting in ("monolingual", "crosslingual", "multilingual")}
    means["monolingual"]["macro"]["map"] = monolingual
    document = {
        "schema": "hbt_dist.evaluation",
        "schema_version": 1,
        "benchmark": {
            "name": name, "variant": None, "fingerprint": "f", "languages": ["en"], "own_text_relevant": False
        },
        "means": means,
        "chance": means,
        "pair_matrix": {"languages": ["en"], "metrics": {}},
        "bias": {},
        "provenance": {},
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(document), "utf-8")


def test_metadata_of_a_model_of_the_hub(tmp_path: Path) -> None:
    card = ModelCard(model_card(run_from(tmp_path, "intfloat/not-cached-e5"), CORPUS, PLAN, TextSettings()))
    assert card.data.base_model == "intfloat/not-cached-e5"
    assert card.data.language == ["en", "fi"]
    assert card.data.license is None
    assert "| adapters | LoRA of rank 8, alpha 32, of query |\n" in card.text
    assert 'encode_query(["..."])' in card.text


def test_a_folder_passes_on_license_and_base_model(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    text = "---\nlicense: mit\nbase_model: someone/model\nlanguage: de\n---\n# start\n"
    (start / "README.md").write_text(text, "utf-8")
    card = ModelCard(model_card(run_from(tmp_path, str(start)), CORPUS, PLAN, TextSettings()))
    assert (card.data.license, card.data.base_model) == ("mit", "someone/model")
    assert card.data.language == ["en", "fi"]
    for damaged in ("no header", "---\n[a\n---\n", "---\n- a\n---\n"):
        (start / "README.md").write_text(damaged, "utf-8")
        assert base_metadata(str(start)) == {}
    card = ModelCard(model_card(run_from(tmp_path, str(start)), CORPUS, PLAN, TextSettings()))
    assert card.data.base_model is None


def test_figures_are_those_of_the_exported_step(tmp_path: Path) -> None:
    run = run_from(tmp_path, "a/model")
    folder = RunFolder(run.output_dir)
    plain = model_card(run, CORPUS, PLAN, TextSettings())
    assert card_with_results(plain, run, folder, 3) == plain
    write_results(folder.evaluation / "step-3" / "sample-dev", "sample", 0.5)
    write_results(folder.evaluation / "end" / "sample-dev", "sample", 0.75)
    write_results(folder.evaluation / "start" / "xquad-r", "xquad-r", 0.1)
    values = {}
    for step in (3, 6):
        card = ModelCard(card_with_results(plain, run, folder, step))
        results = {r.metric_type: r for r in card.data.eval_results}
        assert sorted(results) == ["map_crosslingual", "map_monolingual", "map_multilingual"]
        assert {r.dataset_name for r in results.values()} == {"sample-dev"}
        values[step] = results["map_monolingual"].metric_value
        assert card.text == ModelCard(plain).text
    assert values == {3: 0.5, 6: 0.75}
    folder.model.mkdir()
    (folder.model / "README.md").write_text(plain, "utf-8")
    for _ in range(2):
        add_results(run)
        card = ModelCard((folder.model / "README.md").read_text("utf-8"))
        assert card.data.to_dict()["model-index"][0]["name"] == "tiny"
        assert [r.metric_value for r in card.data.eval_results] == [
            pytest.approx(v) for v in (0.75, 0.25, 0.25)
        ]
