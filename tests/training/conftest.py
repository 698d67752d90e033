"""What the tests of whole trainings share: one cache, one start model, one uninterrupted run per setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.run_file import RunFile
from hbt_dist.training.preparation import prepare
from tests.helpers.runs import tiny_run, write_run
from tests.helpers.workers import Workers, kill_all, run_workers


@dataclass(frozen=True)
class Launch:
    """Tiny runs that differ in nothing but what a test asks for."""

    cache: Path
    start_model: Path

    def file(self, folder: Path, **changes: Any) -> tuple[Path, Path]:
        """(run file, output folder) of a run below `folder`."""
        output = folder / "out"
        changes.setdefault("training__checkpoint_every", 2)
        run = tiny_run(output, self.cache, model={"name_or_path": str(self.start_model)}, **changes)
        folder.mkdir(exist_ok=True)
        return write_run(folder / "run.yaml", run), output

    def start(self, run_file: Path, world_size: int, **environment: str) -> Workers:
        """Start the processes of a run."""
        return Workers(
            world_size, ["train", run_file, "--launcher", "local", "--quiet"], run_file.parent, **environment
        )

    def finish(self, run_file: Path, world_size: int) -> Workers:
        """Run to the end; every process must succeed."""
        return run_workers(world_size, ["train", run_file, "--launcher", "local", "--quiet"], run_file.parent)


@pytest.fixture(autouse=True)
def _no_workers_left() -> Iterator[None]:
    yield
    kill_all()


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    folder = tmp_path_factory.mktemp("launch")
    output, cache = folder / "out", folder / "cache"
    prepare(RunFile.model_validate(tiny_run(output, cache)))
    return Launch(cache, output / "start")


@pytest.fixture(scope="session")
def finished(launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The output folder of an uninterrupted run of two processes with a DeepSpeed configuration."""
    done: dict[Any, Path] = {}

    def run(stage: int | None) -> Path:
        if stage not in done:
            folder = tmp_path_factory.mktemp(f"uninterrupted-{stage}")
            file, done[stage] = launch.file(folder, deepspeed__config=stage)
            launch.finish(file, 2)
        return done[stage]

    return run
