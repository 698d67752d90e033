"""The output folder of a run: what lies where, and that it belongs to this run alone.

run.yaml           the resolved run file (absolute paths), enough to run it again
provenance.json    versions, host, launcher, world size, data fingerprints, of every start
metrics.jsonl      one line per step
log.txt            what the run said
tensorboard/       the same figures for TensorBoard
start/             the model before training (only when it is made from scratch)
checkpoints/       what the same command continues from
universal/         the last checkpoint in another form, after a start on another number of workers
model/             the trained model
evaluation/        one folder per evaluation
validation.jsonl   one line per checkpoint and benchmark of `evaluation.checkpoint_benchmarks`
held-*/            checkpoints that are being measured or copied elsewhere
"""

from __future__ import annotations

import json
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
        self.start = self.root / "start"
        self.checkpoints = self.root / "checkpoints"
        self.universal = self.root / "universal"
        self.model = self.root / "model"
        self.validation = self.root / "validation.jsonl"
        self.evaluation = self.root / "evaluation"
        self._lock = FileLock(self.root / ".lock")

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step-{step:010d}"

    def checkpoint_steps(self) -> list[int]:
        """Steps that have a checkpoint, in order; its files have not been looked at."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.checkpoints.glob("step-*[0-9]"))

    def check(self, run: dict[str, Any], place: str | None = None) -> None:
        """Refuse to continue another run.

        A start that failed before its first step has left nothing to continue: its folder may be used again.

        Args:
            run: the resolved run file as plain data.
            place: how the folder is called in errors, if it is a copy of a run's folder; one that has begun.

        Raises:
            UserError: the folder holds a run that differs in what it computes. Where its data lie may change:
                `hbt_dist.batching.resume` and the checkpoint's manifest guard the content.
        """
        if not self.run_file.is_file() or (place is None and not self.has_begun()):
            return
        try:
            before = yaml.safe_load(self.run_file.read_text("utf-8"))
            assert isinstance(before, dict)
        except (yaml.YAMLError, AssertionError, UnicodeDecodeError):
            raise UserError(str(self.run_file), "is not a run file", "choose another output_dir") from None
        differences = changed_settings(before, run)
        if differences:
            raise UserError(
                place or str(self.root),
                f"holds another run ({first_of(differences)})",
                "choose another output_dir, or move the folder away",
            )

    def has_begun(self) -> bool:
        """Whether anything here was computed by the run of the run file."""
        steps = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return steps or any(path.exists() for path in (self.checkpoints, self.model, self.evaluation))

    def acquire(self, wait_seconds: float = 20) -> None:
        """Become the only writer; the lock ends with the process.

        Raises:
            UserError: another process holds it, or the folder cannot be written.
        """
        try:
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
                "mend the rights, or choose another output_dir",
            ) from error

    def release(self) -> None:
        """Let others write."""
        self._lock.release()

    def write_run_file(self, run: dict[str, Any]) -> None:
        """Record the resolved run file."""
        text = yaml.safe_dump(run, sort_keys=False, allow_unicode=True)
        atomic_write(self.run_file, text)

    def add_provenance(self, facts: dict[str, Any]) -> None:
        """Append the facts of this start."""
        starts: list[Any] = []
        if self.provenance.is_file():
            starts = json.loads(self.provenance.read_text("utf-8"))
        starts.append({**environment_facts(), **facts})
        write_json(self.provenance, starts)
