"""What a DeepSpeed configuration may hold, and the files that come with the package."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.training.deepspeed.settings import (
    DeepSpeedSettings,
    ResolvedDeepSpeed,
    resolve_deepspeed,
    shipped_configs,
)
from hbt_dist.training.deepspeed.setup import check_with_deepspeed, name_device

FOLDER = Path(__file__).resolve().parents[2] / "deepspeed_configs"
GOOD: dict[str, Any] = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}


def load_config(source: Any, **how: Any) -> dict[str, Any]:
    config = resolve_deepspeed(DeepSpeedSettings.model_construct(config=source), **how).config
    assert config is not None
    return config


def test_shipped_files_are_the_ones_users_see() -> None:
    assert shipped_configs() == sorted(path.stem for path in FOLDER.glob("*.json"))
    assert {"zero1", "zero2", "zero3", "zero3_offload", "cpu"} <= set(shipped_configs())


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_shipped_files_are_complete_and_explained(name: str) -> None:
    config = load_config(name)
    written = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert config == written  # nothing is left to a default of ours
    assert written["gradient_accumulation_steps"] == 1
    assert "gradient_clipping" in written
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`{name}`" in readme
    keys = [*written, *written["zero_optimization"]]
    assert [key for key in keys if key not in readme and key not in ("zero_optimization", "stage")] == []


def test_sources(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(GOOD), encoding="utf-8")
    for source in (GOOD, str(path)):
        config = load_config(source)
        assert config["zero_optimization"]["stage"] == 2
        assert config["zero_allow_untested_optimizer"] is True
    assert "torch_autocast" in load_config(2)
    assert "torch_autocast" not in load_config(2, device_type="cpu")
    assert load_config("3") == load_config("zero3")
    assert load_config("zero1", gradient_clipping=0.0)["gradient_clipping"] == 0.0
    assert GOOD == {"gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps: is 4"),
        ({"gradient_clipping": "auto"}, 'gradient_clipping: "auto"'),
        ({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}, "reduce_bucket_size"),
        ({"zero_optimization": {"stage": 4}}, "stage: is 4"),
        ({"zero_optimization": {"stage": 3, "mics_shard_size": 8}}, "mics_shard_size"),
        ({"optimizer": {"type": "AdamW"}}, "optimizer block decides"),
        ({"zero_force_ds_cpu_optimizer": True}, "zero_force_ds_cpu_optimizer: is true"),
        ({"train_batch_size": 64}, "global_batch_size decides"),
        ({"elasticity": {}}, "removed"),
        ({"gradient_allreduce_op": "sum"}, "averaged over ranks"),
        ({"bf16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "stage 1 or higher"),
        ({"fp16": {"enabled": True}, "zero_optimization": {"stage": 0}}, "fp16: with ZeRO stage 0"),
        ({"torch_autocast": {"enabled": True, "dtype": "float16"}}, "torch_autocast.dtype: is 'float16'"),
        ({"torch_autocast": {"enabled": True}}, "torch_autocast.dtype: is missing"),
    ],
)
def test_what_would_train_something_else_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config({**GOOD, **change})


@pytest.mark.parametrize(
    ("zero", "message"),
    [
        ([1], r"zero_optimization: is \[1\]"),
        ({"stage": 1, "reduce_bucket_sise": 1}, "reduce_bucket_sise: Extra inputs are not permitted"),
        ({"stage": 1, "reduce_bucket_size": "large"}, "reduce_bucket_size"),
        ({"stage": 1, "reduce_bucket_size": 1}, None),
    ],
)
def test_what_deepspeed_cannot_read_is_refused(zero: Any, message: str | None) -> None:
    """Before anything starts, and in one sentence."""

    def read() -> None:
        config = load_config({**GOOD, "zero_optimization": zero})
        check_with_deepspeed(ResolvedDeepSpeed(config))

    if message is None:
        read()
    else:
        with pytest.raises(UserError, match=message):
            read()


def test_every_shipped_configuration_is_read_by_deepspeed() -> None:
    for name in shipped_configs():
        check_with_deepspeed(ResolvedDeepSpeed(load_config(name)))


@pytest.mark.parametrize(("device", "told"), [("cuda:0", "0"), ("cuda:2", "2"), ("cpu", "3")])
def test_deepspeed_takes_the_device_that_the_process_has(
    device: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fourth task of a node, with one visible GPU or several."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    name_device(torch.device(device))
    assert os.environ["LOCAL_RANK"] == told


def test_missing_clipping_is_refused_unless_the_run_file_has_it() -> None:
    with pytest.raises(UserError, match="gradient_clipping: is missing"):
        load_config({"zero_optimization": {"stage": 1}})
    assert load_config({}, gradient_clipping=2.0)["gradient_clipping"] == 2.0


def test_files_that_are_none(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    for source, message in [
        (str(broken), "is not JSON"),
        (str(tmp_path / "absent.json"), "cannot be read"),
        ("zero9", "does not exist"),
        (7, "does not exist"),
    ]:
        with pytest.raises(UserError, match=message):
            load_config(source)
