"""Runs that train adapters: frozen weights, checkpoints, resume, export, and the base that they belong to."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hbt_dist.common.errors import UserError
from hbt_dist.jobs.merge import merge_job
from hbt_dist.models.loading import load_encoder
from hbt_dist.training.checkpoints.export import export_checkpoint, read_weights
from hbt_dist.training.checkpoints.manifest import read_manifest
from hbt_dist.training.checkpoints.store import Checkpoint
from tests.helpers.faults import fault
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import losses, weights_digest
from tests.models.test_adapters import vectors
from tests.training.conftest import Launch

STAGES: list[int | None] = [None, 0, 1, 2, 3]
LORA = {"rank": 2, "alpha": 4.0, "dropout": 0.2}
LAST = "step-0000000006"
_finished: dict[Any, Path] = {}


def run_of(launch: Launch, folder: Path, stage: int | None, **changes: Any) -> tuple[Path, Path]:
    """(run file, output folder) of a run that trains adapters and a temperature."""
    changes = {"deepspeed__config": stage, "model__lora": LORA, "loss__learn_temperature": True, **changes}
    return launch.file(folder, **changes)


def trained(stage: int | None, launch: Launch, factory: pytest.TempPathFactory) -> Path:
    """The output folder of an uninterrupted run of two processes."""
    if stage not in _finished:
        file, _finished[stage] = run_of(launch, factory.mktemp(f"adapters-{stage}"), stage)
        launch.finish(file, 2)
    return _finished[stage]


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_continued(
    stage: int | None, launch: Launch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file, output = run_of(launch, tmp_path, stage)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=0,step=5,where=before_forward"))
    assert group.wait()[0] == -signal.SIGKILL, group.error()
    launch.finish(file, 2)
    want = trained(stage, launch, tmp_path_factory)
    assert losses(output) == losses(want)
    assert weights_digest(output) == weights_digest(want)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", STAGES)
def test_checkpoints_hold_adapters_alone_and_export_both_forms(
    stage: int | None, launch: Launch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = trained(stage, launch, tmp_path_factory)
    folder = output / "checkpoints" / LAST
    weights = read_weights(Checkpoint(folder, 6, read_manifest(folder)))
    assert {name.split(".")[-3] for name in weights} == {"lora_A", "lora_B"}
    numbers = sum(value.numel() for value in weights.values())
    # Weight, two moments, and a second copy of the weight under ZeRO; the rest of the pickles are names.
    most = 2 * (16 * numbers + 30_000)
    base = (launch.start_model / "model.safetensors").stat().st_size
    assert bytes_below(folder) < min(most, 12 * base / 2), "12 bytes per weight of the base would be more"

    export_checkpoint(output, tmp_path / "merged")
    export_checkpoint(output, tmp_path / "adapter", as_adapter=True)
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "merged", whole / "model")
    assert weights_digest(whole) == weights_digest(output)  # of its last checkpoint
    want = vectors(load_encoder(tmp_path / "merged"))
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "adapter")), want, atol=1e-5)
    with_peft = load_encoder(launch.start_model)
    backbone = AutoModel.from_pretrained(launch.start_model, add_pooling_layer=False)
    with_peft.encoder.backbone = PeftModel.from_pretrained(backbone, tmp_path / "adapter")
    np.testing.assert_allclose(vectors(with_peft), want, atol=1e-5)
    assert np.abs(vectors(load_encoder(launch.start_model)) - want).max() > 1e-3
    assert not any(name.endswith(".pt") for name in (path.name for path in (tmp_path / "adapter").iterdir()))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_other_numbers_of_workers(
    stage: int, launch: Launch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    without = {"training__checkpoint_every": 1, "model__lora": {**LORA, "dropout": 0.0}}
    start = tmp_path / "start"
    shutil.copytree(launch.start_model, start)
    config = json.loads((start / "config.json").read_text("utf-8"))
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (start / "config.json").write_text(json.dumps(config), "utf-8")
    local = Launch(launch.cache, start)
    file, want = run_of(local, tmp_path / "reference", stage, **without)
    local.finish(file, 2)
    file, output = run_of(local, tmp_path / "changing", stage, **without)
    for step, world_size in enumerate((2, 1, 3), start=1):
        place = fault(f"rank=0,step={step},where=between_save_and_report")
        assert local.start(file, world_size, HBT_DIST_FAULT=place).wait()[0] == -signal.SIGKILL
    local.finish(file, 2)
    assert "converted for" in (output / "log.txt").read_text("utf-8")
    np.testing.assert_allclose(losses(output), losses(want), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_adapter_is_trained_further_on_its_base_alone(
    launch: Launch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(launch.start_model, base)
    export_checkpoint(trained(None, launch, tmp_path_factory), adapter, as_adapter=True)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "../base"}))
    file, output = run_of(
        Launch(launch.cache, adapter), tmp_path, None, training__steps=2, training__schedule_steps=4
    )
    launch.finish(file, 1)
    export_checkpoint(output, tmp_path / "further", as_adapter=True)
    want = vectors(load_encoder(output / "model"))
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "further")), want, atol=1e-5)
    assert np.abs(vectors(load_encoder(adapter)) - want).max() > 1e-4

    recorded = json.loads((adapter / "hbt_dist.json").read_text("utf-8"))
    del recorded["adapter"]  # so that the checkpoint alone knows the base
    (adapter / "hbt_dist.json").write_text(json.dumps(recorded), "utf-8")
    changed = load_encoder(base).encoder.backbone
    with torch.no_grad():
        next(iter(changed.parameters())).mul_(1.5)
    changed.save_pretrained(base)  # type: ignore[operator]
    group = launch.start(file, 1)
    assert group.wait() == [2]
    assert "is not the model that the checkpoint of step 2 began with" in group.error()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "changes",
    [{"model__lora": LORA}, {"optimizer__parts": {"freeze_embeddings": True}, "deepspeed__config": 2}],
)
def test_frozen_weights_of_a_changed_start_model_are_not_exported(
    changes: dict[str, Any], launch: Launch, tmp_path: Path
) -> None:
    """The start model changes during the last save; export and merge refuse it until it is restored."""
    start, changed = tmp_path / "start", tmp_path / "changed.safetensors"
    shutil.copytree(launch.start_model, start)
    weights = load_file(start / "model.safetensors")
    save_file({name: 1.5 * value for name, value in weights.items()}, changed, {"format": "pt"})
    replace = tmp_path / "replace.py"
    replace.write_text(
        f"import shutil\ndef at(moment, step, world, model):\n    if (moment, step) == ('during_save', 2):\n"
        f"        shutil.copyfile({str(changed)!r}, {str(start / 'model.safetensors')!r})\n"
    )
    local = Launch(launch.cache, start)
    file, output = local.file(tmp_path, **{"deepspeed__config": None, "training__steps": 2, **changes})
    group = local.start(file, 1, HBT_DIST_FAULT=str(replace))
    assert group.wait() == [2]
    message = "is not the model that the checkpoint of step 2 began with"
    assert message in group.error()
    assert not (output / "model").exists()
    with pytest.raises(UserError, match=message):
        export_checkpoint(output, tmp_path / "new")
    with pytest.raises(UserError, match=message):
        merge_job([output / "checkpoints" / "step-0000000002", start], None, tmp_path / "new", "average")
    assert not (tmp_path / "new").exists()
    shutil.copyfile(launch.start_model / "model.safetensors", start / "model.safetensors")
    export_checkpoint(output, tmp_path / "new")
    assert local.start(file, 1).wait() == [0]
    assert (output / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_a_run_without_adapters_exports_none(finished: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="trains all weights"):
        export_checkpoint(finished(1), tmp_path / "new", as_adapter=True)


@pytest.mark.timeout(300)
def test_frozen_weights_have_no_gradient_and_no_state_and_are_shared_out_by_zero_3() -> None:
    for rank in run_ranks(2, "tests.training.bodies:frozen_weights", timeout=200):
        for stage, facts in rank.items():
            assert facts["gradients"] == 0, stage
            assert facts["trained"] == facts["adapters"], stage
            # Two moments and, under ZeRO, a float32 copy; shared out over two ranks, up to padding.
            assert facts["state"] <= 3 * facts["adapters"] + 200, stage
            shares = 2 if stage == "3" else 1
            assert facts["held"] <= facts["frozen"] / shares + facts["number"], stage
