"""The command line: what it prints, its exit codes, and one clear error for every mistake."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import hbt_dist
from hbt_dist.cli.main import app
from hbt_dist.common.errors import UserError
from hbt_dist.config.shipped import RUN_FILES
from hbt_dist.jobs.evaluate import load, refuse_to_replace
from hbt_dist.jobs.train import note_unused_workers
from hbt_dist.models.locations import check_hub_reachable
from hbt_dist.run_file import BenchmarkSettings, load_run
from tests.helpers.command_line import call_main
from tests.helpers.runs import hbt_dist as hbt_dist_process
from tests.helpers.runs import tiny_run, write_run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Call the command line in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    return partial(call_main, monkeypatch, capsys)


def test_help_fits_a_screen_and_version(command: Any) -> None:
    code, out, _ = command("--help")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    commands = typer.main.get_group(app)
    assert sorted(listed) == sorted(commands.list_commands(typer.Context(commands)))
    assert listed[:2] == ["init", "train"]
    assert command("--version")[1].strip() == hbt_dist.__version__


def test_help_of_train_names_every_run_file_and_options_of_evaluate_are_in_panels(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    words = set(command("train", "--help")[1].replace(",", " ").split())
    assert {file.stem for file in RUN_FILES.glob("*.yaml")} <= words
    out = command("evaluate", "--help")[1]
    places = [out.index(f" {panel} ─") for panel in ("Model", "Benchmark", "Output", "Scoring", "Expansion")]
    assert len(set(places)) == 5


@pytest.mark.slow
def test_a_training_ends_with_one_line_and_quiet_means_quiet(tmp_path: Path) -> None:
    file = write_run(tmp_path / "run.yaml", tiny_run(tmp_path / "out", tmp_path / "cache"))
    command = ["train", file, "--launcher", "local"]
    code, out, err = hbt_dist_process(*command, "--quiet", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert re.fullmatch(r"trained 6 steps in [\d.]+ s, last loss [\d.]+; model: out/model\n", out), out
    benchmark = "evaluation.benchmarks=[{name: sample, variant: dev, languages: [en, de, fi]}]"
    code, out, err = hbt_dist_process(*command, benchmark, "--json", cwd=tmp_path)
    assert code == 0, err
    ended = json.loads(out)
    assert set(ended["pairs"]["sample-dev"]) == {"start", "end"}
    assert ended["pairs"]["sample-dev"]["end"]["languages"] == ["en", "de", "fi"]
    assert re.search(r"^  before training +after training$", err, re.MULTILINE)
    assert err.count("° not in the training data\n") == 2  # before the training, and after it
    assert {key: ended[key] for key in ("steps", "of_steps", "finished", "model")} == {
        "steps": 6,
        "of_steps": 6,
        "finished": True,
        "model": "out/model",
    }
    assert "already finished (6 of 6 steps)" in err
    assert ", 1 worker on cpu; global batch 12" in err


def test_schema_describes_every_key(command: Any) -> None:
    code, out, _ = command("schema")
    assert code == 0
    schema = json.loads(out)
    assert {"data", "batches", "model", "loss", "deepspeed", "workers", "evaluation"} <= set(
        schema["properties"]
    )
    for name, block in {"RunFile": schema, **schema["$defs"]}.items():
        for key, field in block.get("properties", {}).items():
            described = field.get("description") or "$ref" in field  # a block that says the same itself
            assert described, f"{name}.{key} has no description"


def refused(command: Any, *arguments: str | Path) -> str:
    code, _, err = command(*arguments)
    assert code == 2, err
    progress, _, message = err.rpartition("error: ")  # a busy machine shows how far it is with the corpus
    assert message
    assert all(line.startswith("converting ") for line in progress.splitlines()), err
    assert "Traceback" not in err
    return str(err)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"batches": {"global_batch_size": 12, "alhpa": 0.5}},
            ["run.yaml line", "alhpa", "did you mean 'alpha'"],
        ),
        ({"batches": {"global_batch_size": 12, "alpha": 1.5}}, ["batches.alpha", "1.5"]),
        ({"batches": {"global_batch_size": 13}}, ["global_batch_size", "13 rows", "12 or 14"]),
        ({"data": {"sources": [{"name": "a", "format": "jsonl", "path": "absent.jsonl"}]}}, ["absent.jsonl"]),
        ({"data": {"sources": [{"name": "a", "format": "sample", "languages": ["xx"]}]}}, ["xx"]),
        ({"model": {"name_or_path": "./absent-model"}}, ["absent-model", "no such model folder"]),
        ({"model": {}}, ["name_or_path", "scratch"]),
        ({"deepspeed": {"config": "absent.json"}}, ["absent.json"]),
        ({"deepspeed": {"config": {"zero_optimization": {"stage": 1}}}}, ["gradient_clipping"]),
        ({"evaluation": {"benchmarks": [{"name": "nothing"}]}}, ["nothing"]),
        ({"evaluation": {"benchmarks": [{"name": "xquad-r", "data_dir": "absent"}]}}, ["absent"]),
        ({"batches": {"global_batch_size": 4000}}, ["global_batch_size", "745"]),
    ],
)
def test_a_wrong_run_file_is_one_error_and_trains_nothing(
    command: Any, tmp_path: Path, change: dict[str, Any], said: list[str]
) -> None:
    run = {**tiny_run(tmp_path / "out", tmp_path / "cache"), **change}
    message = refused(command, "train", write_run(tmp_path / "run.yaml", run))
    for part in said:
        assert part in message
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert not (tmp_path / "out" / "model").exists()


def test_a_folder_of_another_run_is_kept(command: Any, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    (tmp_path / "out").mkdir()
    file = write_run(tmp_path / "run.yaml", run)
    other = {**load_run(str(file)).plain(), "seed": 4}
    (tmp_path / "out" / "run.yaml").write_text(yaml.safe_dump(other))
    (tmp_path / "out" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    message = refused(command, "train", file)
    assert "holds another run" in message
    assert "seed: 4 there, 3 now" in message
    assert yaml.safe_load((tmp_path / "out" / "run.yaml").read_text())["seed"] == 4


def test_a_failed_first_start_leaves_its_folder_free(command: Any, tmp_path: Path) -> None:
    file = write_run(tmp_path / "run.yaml", tiny_run(tmp_path / "out", tmp_path / "cache"))
    arguments = ["train", file, "--launcher", "local", "workers.num_workers=1"]
    assert "4,000" in refused(command, *arguments, "batches.global_batch_size=4000")
    assert not (tmp_path / "out").exists()
    message = refused(command, *arguments, "batches.global_batch_size=3000", "seed=9")
    assert "another run" not in message
    assert "3,000" in message


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", ".", "--benchmark", "sample"], "not a model folder"),
        (["--model", "./absent", "--benchmark", "sample"], "no such model folder"),
        (["--model", "./absent", "--benchmark", "sampel"], "sampel"),
        (["--model", "./absent", "--benchmark", "xquad-r", "--data-dir", "nowhere"], "nowhere"),
        (["--model", "./absent", "--benchmark", "sample", "--languages", "en,xx"], "xx"),
        (["--model", "./absent", "--benchmark", "sample", "--set", "num_shards=0"], "num_shards"),
    ],
)
def test_a_wrong_evaluation_is_one_error_and_writes_nothing(
    command: Any, tmp_path: Path, arguments: list[str], said: str
) -> None:
    assert said in refused(command, "evaluate", *arguments, "--output", "out")
    assert list(tmp_path.iterdir()) == []


def test_output_that_is_something_else_is_kept(command: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    arguments = ["--model", "./absent", "--benchmark", "sample", "--output", "out"]
    assert "expected an older evaluation" in refused(command, "evaluate", *arguments)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def stored_evaluation(folder: Path, model: str, fingerprint: str) -> Path:
    folder.mkdir()
    benchmark = {"name": "sample", "variant": "test", "fingerprint": fingerprint}
    document = {"benchmark": benchmark, "provenance": {"model": model}}
    (folder / "results.json").write_text(json.dumps(document))
    return folder


def test_another_evaluation_is_kept_unless_asked(command: Any, tmp_path: Path) -> None:
    """The model is missing here: what is refused before it is looked for is the folder."""
    mine = load(BenchmarkSettings(name="sample")).fingerprint
    arguments = ["evaluate", "--model", "./mine", "--benchmark", "sample", "--output"]
    same = stored_evaluation(tmp_path / "same", "./mine", mine)
    assert "no such model folder" in refused(command, *arguments, same)
    for name, model, fingerprint in (("a", "./other", mine), ("b", "./mine", "0")):
        there = stored_evaluation(tmp_path / name, model, fingerprint)
        message = refused(command, *arguments, there)
        assert f"holds another evaluation, of {model} on sample (test)" in message
        assert "--overwrite" in message
        assert "no such model folder" in refused(command, *arguments, there, "--overwrite")


def test_one_model_under_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    out = stored_evaluation(tmp_path / "out", "model", "f")
    refuse_to_replace(out, str(tmp_path / "model/"), "f")


def test_what_was_probably_meant(command: Any, tmp_path: Path) -> None:
    assert "did you mean quickstart?" in refused(command, "train", "qickstart")
    run = tmp_path / "mine"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    arguments = ["--benchmark", "sample", "--output", "out"]
    assert "did you mean mine/model?" in refused(command, "evaluate", "--model", "mine", *arguments)
    stored_evaluation(run / "evaluation", "mine/model", "0").rename(tmp_path / "sample")
    (run / "evaluation" / "end").mkdir(parents=True)
    (tmp_path / "sample").rename(run / "evaluation" / "end" / "sample")
    message = refused(command, "report", "mine")
    assert "an evaluation (results.json), a search (search.json) or a study (study.yaml)" in message
    assert "mine/evaluation/end/sample" in message
    assert "no such folder" in refused(command, "report", "nothing")


def test_quiet_comparison_needs_a_folder(command: Any) -> None:
    assert "--output" in refused(command, "compare", "a", "--baseline", "b", "--quiet")


def test_workers_that_a_local_training_does_not_use_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(str(write_run(tmp_path / "run.yaml", tiny_run(tmp_path / "out", tmp_path / "cache"))))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    note_unused_workers(run)
    said = "workers.num_workers=2 is not used by --launcher local: 1 process\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("WORLD_SIZE", "2")
    note_unused_workers(run)
    assert capsys.readouterr().err == ""


def test_a_hub_that_does_not_answer_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    for proxy in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"hub.invalid. does not answer"):
        check_hub_reachable("somebody/mistyped")
    assert time.monotonic() - began < 10
