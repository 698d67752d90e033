"""Whose folder it is: another run is refused once something was computed, and told leaf by leaf."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import load_settings
from hbt_dist.contrastive.world import World
from hbt_dist.models.settings import ModelSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.run_folder import RunFolder, check_same_run
from hbt_dist.training.start import open_folder
from tests.helpers.runs import tiny_run


def started(tmp_path: Path, run: dict[str, Any]) -> RunFolder:
    """The folder of a run that has made a step."""
    folder = RunFolder(tmp_path / "out")
    folder.root.mkdir()
    folder.write_run_file(run)
    folder.metrics.write_text('{"step": 1, "loss": 2.0}\n')
    return folder


def test_differences_are_leaves_also_inside_lists(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    run["data"]["sources"] = [{"name": "mine", "format": "jsonl", "path": "trian.jsonl"}]
    folder = started(tmp_path, run)
    folder.check(run)
    run["data"]["sources"] = [
        {"name": "yours", "format": "jsonl", "path": "elsewhere/trian.jsonl"},  # where data lie may change
        {"name": "more", "format": "sample"},
    ]
    with pytest.raises(UserError) as refused:
        folder.check(run)
    assert refused.value.problem == (
        "holds another run (data.sources.0.name: mine there, yours now; "
        "data.sources.1: nothing there, {format: sample, name: more} now)"
    )


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    folder = started(tmp_path, run)
    run["data"]["exclude_overlap_with"] = [{"name": "sample", "data_dir": "x" * 300}]
    with pytest.raises(UserError) as refused:
        folder.check(run)
    assert len(refused.value.problem) < 200


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints", "model", "evaluation"])
def test_what_was_computed_makes_the_folder_the_runs(tmp_path: Path, name: str) -> None:
    folder = started(tmp_path, {"seed": 3})
    folder.metrics.write_text("")  # opened, and ended before the first step
    folder.check({"seed": 4})
    if name == "metrics.jsonl":
        folder.metrics.write_text("{}\n")
    else:
        (folder.root / name).mkdir()
    with pytest.raises(UserError, match="seed: 3 there, 4 now"):
        folder.check({"seed": 4})


def test_a_recorded_run_elsewhere_is_compared(tmp_path: Path) -> None:
    recorded = started(tmp_path, {"seed": 3}).run_file.read_bytes()
    check_same_run(recorded, {"seed": 3}, "s3://bucket")
    with pytest.raises(UserError, match="s3://bucket: holds another run"):
        check_same_run(recorded, {"seed": 4}, "s3://bucket")
    with pytest.raises(UserError, match=r"s3://bucket/run\.yaml: is not a run file"):
        check_same_run(b"- a list", {"seed": 3}, "s3://bucket")


def test_a_run_older_than_the_rate_of_the_temperature(tmp_path: Path) -> None:
    """Its folder goes on, unless its temperature was learned, at another rate."""
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    now = {**run, "loss": {"learn_temperature": False}, "optimizer": {"temperature_learning_rate": 1e-3}}
    before = {**now, "optimizer": {}}
    folder = started(tmp_path, before)
    folder.check(now)
    for other in (before, now):
        other["loss"] = {"learn_temperature": True}
    folder.write_run_file(before)
    with pytest.raises(UserError, match=r"temperature_learning_rate: nothing there, 0\.001 now"):
        folder.check(now)


def test_a_run_older_than_keys_of_its_model_goes_on(tmp_path: Path) -> None:
    """Its version had no `attention_implementation`, `vocabulary`, and columns of prefixes and scores."""
    now = RunFile.model_validate(tiny_run(tmp_path / "out", tmp_path / "cache")).plain()
    before = copy.deepcopy(now)
    before["model"]["attention"] = before["model"].pop("attention_implementation")
    del before["model"]["vocabulary"]
    for column in ("prefix", "passage_score", "negative_scores"):
        del before["data"]["sources"][0]["columns"][column]
    folder = started(tmp_path, before)
    folder.check(now)
    assert load_settings(RunFile, folder.run_file).plain() == now  # export, merge and validation read it so
    for block, key, value, found in (
        ("model", "vocabulary", "used", "model.vocabulary: nothing there, used now"),
        ("model", "attention_implementation", "eager", "attention_implementation: auto there, eager now"),
    ):
        with pytest.raises(UserError, match=found):
            folder.check({**now, block: {**now[block], key: value}})


def test_old_and_new_name_of_a_key_at_once_are_refused() -> None:
    for keys in ({"attention": "bidirectional"}, {"attention": "sdpa", "attention_implementation": "sdpa"}):
        with pytest.raises(ValidationError):
            ModelSettings.model_validate({"name_or_path": "organisation/model", **keys})


def refused_start(run: RunFile) -> None:
    """A start that writes its run file, and is refused then."""
    runtime: Any = SimpleNamespace(folder_wait_seconds=1)
    with open_folder(run, runtime, World.alone()) as folder:
        assert folder.run_file.is_file()
        raise UserError("data", "no", "yes")


def test_a_refused_start_leaves_nothing(tmp_path: Path) -> None:
    run = RunFile.model_validate(tiny_run(tmp_path / "runs" / "out", tmp_path / "cache"))
    kept = tmp_path / "runs" / "out" / "notes.txt"
    with pytest.raises(UserError, match="no"):
        refused_start(run)
    assert not (tmp_path / "runs").exists()
    kept.parent.mkdir(parents=True)
    kept.write_text("of the user")
    with pytest.raises(UserError, match="no"):
        refused_start(run)
    assert {path.name for path in kept.parent.iterdir()} == {"notes.txt", "run.yaml", ".lock"}
    kept.unlink()
    with pytest.raises(UserError, match="no"):
        refused_start(run)
    assert list(kept.parent.iterdir()) == []  # the folder existed before


def test_teachers_that_no_loss_names_may_change(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    run["teachers"] = {"english": {"name_or_path": "a/b"}, "spare": {"name_or_path": "c/d"}}
    run["loss"] = {"targets": {"teacher": "english"}}
    before = RunFile.model_validate(run).plain()
    folder = started(tmp_path, before)
    run["teachers"]["spare"]["name_or_path"] = "e/f"
    folder.check(RunFile.model_validate(run).plain())
    del run["teachers"]["spare"]
    folder.check(RunFile.model_validate(run).plain())
    run["teachers"]["english"]["name_or_path"] = "e/f"
    with pytest.raises(UserError, match=r"teachers\.english\.name_or_path: a/b there, e/f now"):
        folder.check(RunFile.model_validate(run).plain())
