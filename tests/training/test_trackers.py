"""Figures of a training outside of it: listeners that follow the files, TensorBoard, W&B, MLflow."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line, atomic_write
from hbt_dist.jobs.search import search_job
from hbt_dist.jobs.train import train_job
from hbt_dist.run_file import load_run
from hbt_dist.training import trackers
from hbt_dist.training.follow import Listener, follow
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.trackers import check_trackers, point_of
from tests.helpers.faults import VARIABLE, fault
from tests.helpers.runs import BIN, finish, left_behind, start
from tests.helpers.searches import write_search
from tests.helpers.tensorboard import pictures, scalars
from tests.helpers.wandb_files import history
from tests.training.conftest import Launch
from tests.training.test_labels import own_benchmark

#: Writes to a run's folder until it is killed.
HOLD = """
import sys, time
from hbt_dist.training.run_folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.acquire()
(folder.root / "held").touch()
time.sleep(600)
"""
OBJECTIVES = ("monolingual", "crosslingual", "multilingual", "rank_distance")


class Kept(Listener):
    """Keeps what it gets; fails at one step."""

    def __init__(self, reported: int | None = None, fails_at: int = 0) -> None:
        self.reported, self.fails_at = reported, fails_at
        self.steps: list[tuple[int, float]] = []
        self.lines: list[dict[str, Any]] = []

    def step(self, step: int, figures: dict[str, Any]) -> None:
        if step == self.fails_at:
            raise RuntimeError("no server")
        self.steps.append((step, figures["loss"]))

    def validation(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def rows(*steps: int) -> str:
    return "".join(json.dumps({"step": step, "loss": step / 10}) + "\n" for step in steps)


def wait_until(holds: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_every_step_arrives_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoint(2).mkdir(parents=True)
    atomic_write(folder.metrics, rows(1, 2, 3))  # the process died in step 4, after the checkpoint of 2
    append_line(folder.validation, {"step": 2, "benchmark": "old", "crosslingual": 0.1})
    new, tracker, failing = Kept(), Kept(reported=1), Kept(fails_at=4)
    listeners: list[Listener] = [new, tracker, failing]
    with follow(folder, listeners):
        wait_until(lambda: tracker.steps)
        atomic_write(folder.metrics, rows(1, 2))  # the new start cuts the file, and repeats
        for step in (3, 4):
            append_line(folder.metrics, {"step": step, "loss": step / 10})
        wait_until(lambda: (4, 0.4) in new.steps)
        atomic_write(folder.metrics, rows(1, 2, 3, 4, 5, 6))  # a worker died: longer at once, then one more
        append_line(folder.validation, {"step": 4, "benchmark": "new", "crosslingual": 0.2})
    assert listeners == [new, tracker]  # the failed one gets no evaluation either
    assert new.steps == [(step, step / 10) for step in (3, 4, 5, 6)]
    assert tracker.steps == [(step, step / 10) for step in (2, 3, 4, 5, 6)]
    assert failing.steps == [(3, 0.3)]
    assert [line["benchmark"] for line in new.lines] == ["new"]
    assert "Kept failed and gets no further figures: no server" in capsys.readouterr().err


def test_a_point_is_the_mean_of_its_steps() -> None:
    point = point_of(
        [
            {"kind": "monolingual", "loss": 1.0, "seconds": 0.5, "learning_rate": 0.1, "languages": ["en"]},
            {"kind": "crosslingual", "loss": 3.0, "seconds": 0.5, "learning_rate": 0.2, "languages": 3},
            {"kind": "crosslingual", "loss": 5.0, "seconds": 1.0, "learning_rate": 0.3, "masked": {"en": 1}},
        ],
        rows_per_step=8,
    )
    assert point == {
        "loss": 3.0,
        "loss/monolingual": 1.0,
        "loss/crosslingual": 4.0,
        "learning_rate": 0.3,
        "seconds_per_step": pytest.approx(2 / 3),
        "rows_per_second": 12.0,
    }


def test_a_missing_package_is_refused_with_its_line(
    monkeypatch: pytest.MonkeyPatch, launch: Launch, tmp_path: Path
) -> None:
    monkeypatch.setitem(trackers._PACKAGES, "wandb", "not_installed_here")
    with pytest.raises(UserError, match="pip install not_installed_here, or remove wandb") as refused:
        check_trackers(["tensorboard", "wandb"])
    assert refused.value.location == "training.trackers"
    file, output = launch.file(tmp_path / "run", training__trackers=["wandb"])

    with pytest.raises(UserError, match="pip install"):
        train_job(load_run(str(file)), "local", quiet=True)
    assert not output.exists()

    search = write_search(tmp_path / "search", [0.5], [0], 2, trackers=["wandb"])
    with pytest.raises(UserError, match="remove wandb from trackers"):
        search_job(str(search), dry_run=True)


def test_a_second_start_touches_nothing_of_a_running_training(
    monkeypatch: pytest.MonkeyPatch, launch: Launch, tmp_path: Path
) -> None:
    benchmark = own_benchmark(tmp_path / "bench", 3)
    changes = {"training__trackers": ["tensorboard"], "evaluation": {"benchmarks": [benchmark]}}
    file, output = launch.file(tmp_path / "run", **changes)
    output.mkdir()
    monkeypatch.setattr(RunFolder.acquire, "__defaults__", (0.2,))
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(output)])
    try:
        wait_until((output / "held").exists)
        with pytest.raises(UserError, match="another run is writing to this folder"):
            train_job(load_run(str(file)), "local", quiet=True)
    finally:
        holder.kill()
        holder.wait()
    assert not {"tensorboard", "evaluation", "trackers.json"} & {path.name for path in output.iterdir()}


def test_the_older_key_is_read(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path / "run")
    for value, expected in (("true", ("tensorboard",)), ("false", ())):
        text = file.read_text("utf-8").replace("trackers: []", f"tensorboard: {value}")
        (tmp_path / "older.yaml").write_text(text, "utf-8")
        assert load_run(str(tmp_path / "older.yaml")).training.trackers == expected
    with pytest.raises(UserError, match=r"expected trackers or tensorboard .*, got both"):
        load_run(str(file), ["training.tensorboard=false"])
    with pytest.raises(UserError, match="each tracker once"):
        load_run(str(file), ["training.trackers=[mlflow, mlflow]"])


def test_epochs_are_refused_with_the_number_of_steps(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path / "run")
    with pytest.raises(UserError, match=r"--dry-run prints the epochs of a number of steps"):
        load_run(str(file), ["training.epochs=3"])
    (tmp_path / "own.jsonl").write_text("{}\n" * 120, "utf-8")
    source = f"data.sources=[{{name: own, format: jsonl, path: {tmp_path}/own.jsonl}}]"
    with pytest.raises(UserError, match=r"write steps: 30 for 3 epochs of 120 lines"):
        load_run(str(file), ["training.epochs=3", source])


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_run_continues_as_one_run(launch: Launch, tmp_path: Path) -> None:
    """Killed in step 7 of 8, when a server has step 6 and the newest checkpoint is of step 4."""
    benchmark = own_benchmark(tmp_path / "bench", 6)
    file, output = launch.file(
        tmp_path / "run",
        training__trackers=["tensorboard", "wandb", "mlflow"],
        training__steps=8,
        training__checkpoint_every=4,
        training__log_every=2,
        evaluation={"benchmarks": [benchmark], "checkpoint_benchmarks": [benchmark]},
    )
    store = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": store, "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [BIN / "hbt-dist", "train", file, "--launcher", "local", "--quiet"]
    process = start(command, tmp_path, **environment, **{VARIABLE: fault("rank=0,step=7,where=hang")})
    memory = output / "trackers.json"

    def step_of_mlflow() -> int:
        facts = json.loads(memory.read_text("utf-8")) if memory.is_file() else {}
        return int(facts.get("mlflow", {}).get("step", 0))

    wait_until(lambda: step_of_mlflow() == 6, 150)
    process.kill()
    finish(process)
    assert not left_behind(process.pid)
    ids = {name: facts["id"] for name, facts in json.loads(memory.read_text("utf-8")).items()}
    process = start(command, tmp_path, **environment)
    code, _, err = finish(process)
    assert code == 0, err
    assert not left_behind(process.pid)
    assert ids == {name: facts["id"] for name, facts in json.loads(memory.read_text("utf-8")).items()}

    label = json.loads((output / "validation.jsonl").read_text("utf-8").splitlines()[0])["benchmark"]
    recorded = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    expected = {
        "train/loss": [
            (step, pytest.approx((recorded[step - 2]["loss"] + recorded[step - 1]["loss"]) / 2))
            for step in (2, 4, 6, 8)
        ],
        f"validation/{label}/crosslingual": [(4, None), (8, None)],
        f"evaluation/{label}/crosslingual": [(0, None), (8, None)],
    }
    _is_logged(expected, scalars(output / "tensorboard"))
    assert pictures(output / "tensorboard") == {f"pairs/{label}": [0, 8]}

    offline_ids, logged = history(output)
    assert offline_ids == {ids["wandb"]}
    _is_logged(
        expected,
        {name: [(row["step"], row[name]) for row in logged if name in row] for name in expected},
    )
    assert [row["step"] for row in logged if f"pairs/{label}/path" in row] == [0, 8]

    from mlflow import MlflowClient

    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name("hbt-dist").experiment_id])
    assert (run.info.run_id, run.info.status) == (ids["mlflow"], "FINISHED")
    assert run.data.params["training.steps"] == "8"
    _is_logged(
        expected,
        {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in expected
        },
    )
    pngs = [item.path for item in client.list_artifacts(run.info.run_id, "images") if ".png" in item.path]
    assert len(pngs) == 2


def _is_logged(expected: dict[str, list[tuple[int, Any]]], logged: dict[str, Any]) -> None:
    """Every figure at every step once, and the values that are known."""
    for name, points in expected.items():
        assert [step for step, _ in logged[name]] == [step for step, _ in points], name
        for (_, value), (_, wanted) in zip(logged[name], points, strict=True):
            assert wanted is None or value == wanted
