"""Name the files of a run's output folder and reserve the folder for one run.

run.yaml           the resolved run file (absolute paths), enough to run it again
provenance.json    versions, host, launcher, world size and data fingerprints of every start
metrics.jsonl      one line per step
log.txt            the messages of the run
tensorboard/       figures and matrices for TensorBoard
trackers.json      each tracker's run, and what has been logged
start/             the model before training (only if it is made from scratch)
checkpoints/       the states that the same command continues from
mined/             the hard negatives that this part of the training draws, with `training.mine_every`
mining/            unfinished work of the mining in progress
universal/         the last checkpoint, converted for a different number of workers
model/             the trained model
evaluation/        one folder per evaluation
validation.jsonl   one line per checkpoint and benchmark of `evaluation.checkpoint_benchmarks`
held-*/            checkpoints that are being measured or copied elsewhere
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_write, write_json
from hbt_dist.config.difference import changed_settings, first_of


class RunFolder:
    """Paths of a run, and the right to write to them."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.run_file = self.root / "run.yaml"
        self.provenance = self.root / "provenance.json"
        self.metrics = self.root / "metrics.jsonl"
        self.log = self.root / "log.txt"
        self.tensorboard = self.root / "tensorboard"
        self.trackers = self.root / "trackers.json"
        self.start = self.root / "start"
        self.checkpoints = self.root / "checkpoints"
        self.mined = self.root / "mined"
        self.mining = self.root / "mining"
        self.universal = self.root / "universal"
        self.model = self.root / "model"
        self.validation = self.root / "validation.jsonl"
        self.evaluation = self.root / "evaluation"
        self._lock = FileLock(self.root / ".lock")
        self._made: list[Path] = []  # folders that `acquire` has made, the root first

    def __repr__(self) -> str:
        model = "trained" if self.model.is_dir() else "not trained yet"
        steps = self.checkpoint_steps()
        newest = f", newest checkpoint at step {steps[-1]:,}" if steps else ""
        return f"RunFolder {self.root}: model {model}{newest}"

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.checkpoints / checkpoint_name(step)

    def mined_before(self, step: int) -> Path:
        """Return the folder of the hard negatives that are mined before a step."""
        return self.mined / checkpoint_name(step)

    def checkpoint_steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order; its files are not verified."""
        return checkpoint_steps(self.checkpoints)

    def check(self, run: dict[str, Any]) -> None:
        """Refuse to continue a different run.

        A start that failed before its first step has computed nothing: its folder can be used again.

        Args:
            run: the resolved run file as plain data.

        Raises:
            UserError: see `check_same_run`.
        """
        if self.run_file.is_file() and self.has_begun():
            check_same_run(self.run_file.read_bytes(), run, str(self.root))

    def has_begun(self) -> bool:
        """Return whether the folder holds anything that a run has computed."""
        steps = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return steps or any(path.exists() for path in (self.checkpoints, self.model, self.evaluation))

    def acquire(self, wait_seconds: float = 20) -> None:
        """Become the only writer; the lock ends with the process.

        Raises:
            UserError: another process writes to the folder, or the folder is not writable.
        """
        try:
            self._made = [path for path in (self.root, *self.root.parents) if not path.exists()]
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=wait_seconds)
        except Timeout:
            raise UserError(
                str(self.root),
                "another run is writing to this folder",
                "wait for it, or choose another output_dir",
            ) from None
        except OSError as error:
            raise UserError(
                str(self.root),
                f"cannot be written: {error.strerror or error}",
                "fix the permissions, or choose another output_dir",
            ) from error

    def check_free(self) -> None:
        """Refuse a folder that another process writes to; make nothing.

        Raises:
            UserError: see `acquire`.
        """
        if self.root.is_dir():
            self.acquire()
            self.release()

    def in_use(self) -> bool:
        """Return whether a process writes to the folder."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:  # the folder does not exist
            return False
        self._lock.release()
        return False

    def release(self) -> None:
        """Let another process write."""
        self._lock.release()

    def discard(self) -> None:
        """Remove what a refused start wrote, if it is run file and log alone; call it with the lock.

        Folders that `acquire` made are removed too.
        """
        traces = {Path(self._lock.lock_file), self.run_file, self.log}
        if not traces.issuperset(self.root.iterdir()):
            return
        for file in traces:
            file.unlink(missing_ok=True)
        with suppress(OSError):  # another run may use a folder above
            for folder in self._made:
                folder.rmdir()

    def write_run_file(self, run: dict[str, Any]) -> None:
        """Record the resolved run file."""
        atomic_write(self.run_file, run_file_text(run))

    def add_provenance(self, facts: dict[str, Any]) -> None:
        """Append the facts of this start."""
        starts = json.loads(self.provenance.read_text("utf-8")) if self.provenance.is_file() else []
        write_json(self.provenance, [*starts, {**environment_facts(), **facts}])

    def log_writer(self, say: Callable[[str], None] | None) -> Callable[[str], None]:
        """Return a function that writes a message to the log and passes it to `say`."""

        def log(text: str) -> None:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
            if say is not None:
                say(text)

        return log


def checkpoint_name(step: int) -> str:
    """Return the name of a step's checkpoint folder."""
    return f"step-{step:010d}"


def checkpoint_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoint folders in `folder`, in order; their files are not verified."""
    names = (re.fullmatch(r"step-(\d{10})", path.name) for path in folder.glob("step-*"))
    return sorted(int(match[1]) for match in names if match)


def run_file_text(run: dict[str, Any]) -> str:
    """Return the content of run.yaml for a resolved run file."""
    return yaml.safe_dump(run, sort_keys=False, allow_unicode=True)


def check_same_run(recorded: bytes, run: dict[str, Any], folder: str, setting: str = "output_dir") -> None:
    """Refuse a run that differs from a recorded run in what it computes.

    Paths of data may differ: `hbt_dist.batching.resume` and the checkpoint's manifest compare the content.

    Args:
        recorded: content of the recorded run's run.yaml.
        run: the resolved run file as plain data.
        folder: folder or address of the recorded run, for the error.
        setting: of the run file that names another folder, for the error.

    Raises:
        UserError: the runs differ, or `recorded` is not a run file.
    """
    try:
        before = yaml.safe_load(recorded.decode())
        assert isinstance(before, dict)
    except (yaml.YAMLError, AssertionError, UnicodeDecodeError):
        raise UserError(f"{folder}/run.yaml", "is not a run file", f"choose another {setting}") from None
    if differences := changed_settings(before, run):
        raise UserError(
            folder,
            f"holds another run ({first_of(differences)})",
            f"choose another {setting}, or move the folder away",
        )
