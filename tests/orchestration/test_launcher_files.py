"""Launchers are sound shell and say how to call them; the watcher of spot machines understands the clouds."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import pytest
from ray.scripts.scripts import drain_node

LAUNCHERS = Path(__file__).resolve().parents[2] / "launchers"
SHELL = sorted([*LAUNCHERS.glob("*.sh"), *LAUNCHERS.glob("*.sbatch")])


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shell_is_sound(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("path", sorted(LAUNCHERS.glob("*.sbatch")), ids=lambda path: path.name)
def test_slurm_steps_get_the_cpus_of_the_job(path: Path, tmp_path: Path) -> None:
    """From Slurm 22.05 on, srun does not take them over from sbatch. This srun says how it is called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in (("srun", 'echo "srun $*"'), ("scontrol", "echo localhost")):
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text("")
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HBT_DIST_VENV": str(tmp_path),
        "SLURM_SUBMIT_DIR": str(LAUNCHERS.parent),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "12",
    }
    done = subprocess.run(
        ["bash", path, "run.yaml"], env=environment, capture_output=True, text=True, check=True
    )
    assert "--cpus-per-task=12 " in done.stdout


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(LAUNCHERS.iterdir()) if p.is_file() and p.name != "common.sh"],
    ids=lambda p: p.name,
)
def test_headers_say_how_to_call(path: Path) -> None:
    header = path.read_text("utf-8").split("\n\n")
    assert path.name in "\n".join(header[:6])


@pytest.fixture(scope="module")
def watcher() -> ModuleType:
    spec = importlib.util.spec_from_file_location("watcher", LAUNCHERS / "preemption_watcher.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Metadata(BaseHTTPRequestHandler):
    pages: dict[str, str] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        body = self.pages.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write((body or "").encode())

    do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Metadata.pages = {}
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_notices_of_the_clouds(watcher: ModuleType, service: str) -> None:
    for cloud in ("aws", "gcp", "azure"):
        assert watcher.seconds_left(cloud, f"{service}/{cloud}") is None
    end = (datetime.now(UTC) + timedelta(seconds=90)).strftime("%Y-%m-%dT%H:%M:%SZ")
    Metadata.pages = {
        "/aws/api/token": "secret",
        "/aws/meta-data/spot/instance-action": f'{{"action": "terminate", "time": "{end}"}}',
        "/gcp": "TRUE",
        "/azure": '{"Events": [{"EventType": "Preempt"}]}',
    }
    assert 80 < watcher.seconds_left("aws", f"{service}/aws") <= 90
    assert watcher.seconds_left("gcp", f"{service}/gcp") == 30
    assert watcher.seconds_left("azure", f"{service}/azure") == 30


@pytest.mark.parametrize("node_id", [None, "ab" * 28])
@pytest.mark.parametrize("address", [None, "10.0.0.1:6379"])
def test_ray_understands_the_watcher(watcher: ModuleType, address: str | None, node_id: str | None) -> None:
    program, name, *arguments = watcher.drain_command(address, node_id, 29.7)
    assert (program, name) == ("ray", "drain-node")
    found = drain_node.make_context(name, arguments).params
    assert (found["address"], found["node_id"]) == (address, node_id)
    assert found["deadline_remaining_seconds"] == 29
