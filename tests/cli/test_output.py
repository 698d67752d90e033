"""What a script reads: --json is one document on stdout and nothing else, --quiet the result alone."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.doctor import report as doctor_report
from hbt_dist.doctor.verdict import Level, Verdict
from hbt_dist.jobs.train import launched_rank
from tests.analysis.made_search import write_search
from tests.helpers.command_line import call_main
from tests.helpers.runs import BIN, hbt_dist, tiny_run, write_run
from tests.helpers.searches import search_of_quickstart
from tests.reports.made_pages import write_made_evaluation


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    """Call the command line in this process: (exit code, stdout, stderr), with what libraries print."""
    return partial(call_main, monkeypatch, capfd)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run of one process."""
    folder = tmp_path_factory.mktemp("trained")
    file = write_run(folder / "run.yaml", tiny_run(folder / "out", folder / "cache", training__steps=2))
    code, _, err = hbt_dist("train", file, "--launcher", "local", cwd=folder)
    assert code == 0, err
    return folder / "out"


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("evaluations")
    a, b = (write_made_evaluation(folder / name, noise=noise) for name, noise in (("a", 3.0), ("b", 1.0)))
    return a, b


def refused(command: Any, *arguments: str | Path) -> str:
    """A mistake: exit code 2, one message on stderr, and nothing where the result is read."""
    code, out, err = command(*arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    return str(err)


EVALUATE = ("evaluate", "--benchmark", "sample", "--languages", "en,fi", "--model")


@pytest.mark.slow
def test_evaluate_and_export_in_processes_of_their_own(trained: Path, tmp_path: Path) -> None:
    """With what libraries say while they are imported and while they load a model."""
    code, out, err = hbt_dist(*EVALUATE, trained / "model", "--output", "a", "--json", cwd=tmp_path)
    assert code == 0, err
    answer = json.loads(out)
    assert set(answer) == {"means", "bias", "pairs", "folder", "notes"}
    languages, matrix = answer["pairs"]["languages"], answer["pairs"]["map"]
    assert [len(row) for row in matrix] == [len(languages)] * len(languages)
    assert answer["folder"] == "a"
    code, out, err = hbt_dist(
        *EVALUATE, trained / "model", "--output", "b", "--quiet", "--label", "mine", cwd=tmp_path
    )
    assert (code, err) == (0, "")
    first, *_, last = out.splitlines()
    assert first.startswith("mine: 2 languages")
    assert "mAP of each pair: question language (rows), candidate language (columns)" in out
    assert json.loads((tmp_path / "b/results.json").read_text("utf-8"))["benchmark"]["label"] == "mine"
    assert last == "written: b/report.html, results.json, pair_matrix.csv, heatmap.png"
    code, out, err = hbt_dist("export", trained, "--to", "c", "--json", cwd=tmp_path)
    assert code == 0, err
    assert json.loads(out) == {"step": 2, "model": "c"}


@pytest.mark.slow
def test_evaluate_and_export_refuse(command: Any, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine", "utf-8")
    for option in ("--json", "--quiet"):
        assert "taken" in refused(
            command, *EVALUATE, trained / "model", "--output", tmp_path / "taken", option
        )
    assert "not empty" in refused(command, "export", trained, "--to", trained / "model", "--json")


def test_compare(command: Any, evaluations: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = evaluations
    asked: list[str | Path] = ["compare", b, "--baseline", a]
    code, out, err = command(*asked, "--json", "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document == json.loads((tmp_path / "out" / "comparison.json").read_text("utf-8"))
    assert command(*asked, "--quiet", "--output", tmp_path / "silent") == (0, "", "")
    assert (tmp_path / "silent" / "comparison.json").is_file()
    code, out, _ = command(*asked, "--quiet", "--json", "--output", tmp_path / "both")
    assert (code, json.loads(out)) == (0, document)
    for options in (["--json"], ["--quiet", "--output", tmp_path / "never"]):
        assert "absent" in refused(command, "compare", tmp_path / "absent", "--baseline", a, *options)
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_report(command: Any, evaluations: tuple[Path, Path], tmp_path: Path) -> None:
    write_search(tmp_path / "search")
    written = tmp_path / "search" / "report"
    code, out, err = command("report", tmp_path / "search", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((written / "summary.json").read_text("utf-8"))
    assert command("report", tmp_path / "search", "--quiet") == (0, f"{written}/report.html\n", "")
    code, out, _ = command("report", tmp_path / "search", "--quiet", "--json")
    assert code == 0
    json.loads(out)
    page = tmp_path / "page"
    asked = ["report", evaluations[1], "--baseline", evaluations[0], "--output", page]
    assert command(*asked, "--quiet") == (0, f"{page}/report.html\n", "")
    assert "is an evaluation" in refused(command, *asked, "--json")
    assert "no such folder" in refused(command, "report", tmp_path / "absent", "--json")


def test_data_inspect(command: Any, tmp_path: Path) -> None:
    """The corpus is converted first, which is not part of the answer."""
    file = write_run(tmp_path / "run.yaml", tiny_run(tmp_path / "out", tmp_path / "cache"))
    code, out, _ = command("data", "inspect", file, "--step", "1", "--json")
    assert code == 0
    assert isinstance(json.loads(out), dict)
    assert "unknown key" in refused(command, "data", "inspect", file, "batches.alhpa=1", "--json")


def test_doctor(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1 where there is a problem; all checks of this machine: tests/doctor/test_doctor.py."""

    def check(level: Level) -> Any:
        return lambda _: iter([Verdict(level, "found", "do this")])

    for levels, expected in ((["ok", "warning"], 0), (["ok", "problem"], 1)):
        checks = {f"check-{i}": check(level) for i, level in enumerate(levels)}
        monkeypatch.setattr(doctor_report, "CHECKS", checks)
        code, out, err = command("doctor", "--json")
        assert (code, err) == (expected, "")
        answer = json.loads(out)
        assert [verdict["level"] for verdict in answer["verdicts"]] == levels
        assert answer["problem"] == expected
        code, out, err = command("doctor")
        assert (code, err) == (expected, "")
        assert out.endswith(f"{expected} problems, {1 - expected} warnings, 1 ok\n")
    assert "no such run file" in refused(command, "doctor", "--run", "absent.yaml", "--json")


@pytest.mark.slow
def test_train(command: Any, trained: Path) -> None:
    """Of a run that has ended: tests/cli/test_cli.py trains one."""
    file = trained.parent / "run.yaml"
    for option in ("--json", "--quiet"):
        assert "unknown key" in refused(command, "train", file, "batches.alhpa=1", option)


def test_search_and_study(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet trainings, here none at all: the folder in one line, or nothing."""
    monkeypatch.setattr("hbt_dist.orchestration.tune.run_trials", lambda *_, **__: True)
    file = search_of_quickstart(tmp_path)
    asked = ["search", file, "--quiet"]
    assert command(*asked) == (0, f"{tmp_path / 'search'}\n", "")
    assert "each seed once" in refused(command, *asked, "seeds=[1, 1]")
    study = {
        "name": "s",
        "output_dir": str(tmp_path / "study"),
        "question": "Is it quiet?",
        "run": "quickstart",
        "overrides": [f"data.cache_dir={tmp_path / 'cache'}"],
        "methods": {"multilingual": {"overrides": {"batches.alpha": 1.0}}, "hybrid": {}},
        "baseline": "multilingual",
        "benchmarks": [{"name": "sample", "variant": "dev", "languages": ["en", "fi"]}],
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study), "utf-8")
    asked = ["study", tmp_path / "study.yaml", "--quiet"]
    assert "'multilingual' has no results yet" in refused(command, *asked)
    assert "each seed once" in refused(command, *asked, "seeds=[1, 1]")


def test_a_full_disk_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [BIN / "hbt-dist", "schema", "run"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr == (
        "error: standard output: cannot be written: No space left on device\n"
        "       free space, or redirect the output to a different disk\n"
    )


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"RANK": "1", "WORLD_SIZE": "2"}, 1),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, 3),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "1"}, 0),
    ],
)
def test_a_rank_counts_with_launcher_local_only(
    environment: dict[str, str], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tests/orchestration/test_private_cluster.py has a whole run on Ray with RANK=1."""
    for name in ("RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched_rank("local") == rank
    assert launched_rank("ray") == 0
