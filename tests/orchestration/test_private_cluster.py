"""A private cluster starts under a long TMPDIR, without a home, among another launcher's variables."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.private_cluster import home_problem, make_folder
from hbt_dist.orchestration.settings import WorkerSettings
from tests.helpers.runs import BIN, finish, left_behind, session_of, start, tiny_run, write_run

RAY_SECONDS = 200


def long_folder(parent: Path) -> Path:
    """Make a folder like a scheduler's TMPDIR: 43 characters are too many."""
    folder = parent / "slurm_jobdir" / "1355700" / "tmp.t0016" / "x" / "x"
    folder.mkdir(parents=True)
    assert len(str(folder)) > 30
    return folder


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder of few characters."""
    folder = Path(f"/tmp/s{os.getpid()}")
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.rmdir()
    folder.rmdir()


def test_a_short_folder_replaces_a_long_one(tmp_path: Path, short: Path) -> None:
    long = long_folder(tmp_path)
    folder = make_folder([long, tmp_path / "absent", short])
    assert folder.parent == short
    assert list(folder.iterdir()) == list(long.iterdir()) == []
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.bind(str(long / ("x" * 90)))


def test_without_a_short_folder_the_error_names_all(tmp_path: Path) -> None:
    long = long_folder(tmp_path)
    with pytest.raises(UserError) as refused:
        make_folder([long, "/proc"])
    assert refused.value.location == "TMPDIR"
    assert refused.value.problem.startswith(
        f"expected a folder for Ray's sockets, got {long}: AF_UNIX path too long; /proc: "
    )
    assert "export TMPDIR=FOLDER" in refused.value.remedy
    assert list(long.iterdir()) == []


@contextmanager
def variables(values: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


def test_a_home_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in ("/proc/nonexistent", "/proc/version"):
        with variables({"HOME": home}, monkeypatch):
            assert str(home_problem()).startswith(f"HOME={home}: N")
    with variables({"HOME": str(tmp_path)}, monkeypatch):
        assert home_problem() is None


def test_an_error_of_ray_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray refuses the value before it starts a process; the folder of the cluster is removed."""
    folder = make_folder()
    before = set(folder.parent.glob("hbt-ray-*"))
    with (
        variables({"RAY_RUNTIME_ENV_HOOK": "absent_module.hook"}, monkeypatch),
        pytest.raises(UserError, match="cannot start on this machine") as refused,
        connect(WorkerSettings(address="local")),
    ):
        pass
    assert "hbt-dist doctor" in refused.value.remedy
    assert set(folder.parent.glob("hbt-ray-*")) == before
    folder.rmdir()


_TWO_CLUSTERS = """
import os, psutil, ray, threading, time
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.settings import WorkerSettings

def stop_first_raylet():
    while True:
        for process in psutil.Process().children(recursive=True):
            if process.name() == "raylet":
                process.suspend()
                return
        time.sleep(0.001)

threading.Thread(target=stop_first_raylet, daemon=True).start()
for _ in range(2):  # each has a new token
    with connect(WorkerSettings(address="local")):
        print(ray.get(ray.remote(num_cpus=0)(lambda: os.environ["TMPDIR"]).remote()))
"""


@pytest.mark.slow
@pytest.mark.ray
def test_one_process_can_start_several(tmp_path: Path) -> None:
    """The first raylet stands still, as on a machine that is too busy: Ray starts once more."""
    folder = long_folder(tmp_path)
    environment = {**os.environ, "TMPDIR": str(folder), "HOME": "/proc/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", _TWO_CLUSTERS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=RAY_SECONDS,
        check=False,
    )
    assert done.stdout.split() == [str(folder)] * 2, done.stderr
    assert done.stderr.count("Ray did not start within its 30 s") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_a_run_in_a_foreign_environment(tmp_path: Path) -> None:
    """Also: stdout has the JSON line although RANK is set, and workers run at the driver's priority."""
    folder = long_folder(tmp_path)
    run = tiny_run(tmp_path / "out", tmp_path / "cache", training__steps=60, training__checkpoint_every=60)
    foreign = {"TMPDIR": str(folder), "HOME": "/proc/nonexistent", "RANK": "1", "WORLD_SIZE": "2"}
    foreign |= {"LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29555"}
    command = ["env", *(f"{name}={value}" for name, value in foreign.items()), BIN / "hbt-dist", "train"]
    process = start([*command, write_run(tmp_path / "run.yaml", run), "--json"], tmp_path)
    priorities: set[int] = set()
    while process.poll() is None and not priorities:
        for member in session_of(process.pid):
            if "RayTrainWorker" in " ".join(cmdline(member)):
                priorities.add(member.nice())
        time.sleep(0.1)
    code, out, err = finish(process, RAY_SECONDS)
    assert code == 0, err[-3000:]
    assert json.loads(out)["finished"] is True
    assert priorities == {os.nice(0)}
    assert not any(word in err for word in ("Matplotlib", "nonexistent", "Traceback"))
    assert left_behind(process.pid) == []
    assert [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")] == []


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []
