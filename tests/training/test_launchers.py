"""Whoever starts the training, the same run file gives the same losses and bitwise the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_dist.orchestration.private_cluster import free_port
from tests.helpers.runs import (
    BIN,
    PYTHON,
    finish,
    left_behind,
    losses,
    start,
    tiny_run,
    weights_digest,
    write_run,
)

SCRIPT = Path(__file__).resolve().parents[2] / "launchers" / "train.py"
LAUNCHERS: dict[str, list[str | Path]] = {
    "torchrun": [
        BIN / "torchrun",
        "--nproc_per_node",
        "2",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ],
    "deepspeed": [BIN / "deepspeed", "--no_local_rank", "--num_gpus", "2", "--master_port", "PORT"],
    "accelerate": [
        BIN / "accelerate",
        "launch",
        "--use_deepspeed",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--main_process_port",
        "PORT",
    ],
    "ray": [PYTHON],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def reference(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], str]:
    """Two processes of torchrun (one process would draw other dropout)."""
    folder = tmp_path_factory.mktemp("reference")
    return launch("torchrun", folder, cache)


def launch(launcher: str, folder: Path, cache: Path) -> tuple[list[float], str]:
    output = folder / "out"
    file = write_run(folder / "run.yaml", tiny_run(output, cache))
    port = str(free_port())  # these two launchers hand on whatever they are given, 0 too
    command = [port if part == "PORT" else part for part in LAUNCHERS[launcher]]
    process = start([*command, SCRIPT, file], folder)
    code, _, err = finish(process)
    assert code == 0, err[-4000:]
    assert "Traceback" not in err
    assert left_behind(process.pid) == [], "processes were left behind"
    return losses(output), weights_digest(output)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["deepspeed", "accelerate", pytest.param("ray", marks=pytest.mark.ray)])
def test_launchers_agree(
    launcher: str, tmp_path: Path, cache: Path, reference: tuple[list[float], str]
) -> None:
    got, weights = launch(launcher, tmp_path, cache)
    want, wanted_weights = reference
    assert len(want) == 6
    assert got == want
    assert weights == wanted_weights
