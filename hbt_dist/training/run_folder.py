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
import os
import platform
import shlex
import socket
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import yaml
from filelock import FileLock, Timeout

from hbt_dist import __version__
from hbt_dist.common.errors import UserError
from hbt_dist.config.paths import RunPath, User, with_paths

#: Blocks of the run file that may change when a run is continued: none of them changes what is computed, but
#: the training's steps with a schedule made for them, which the trainer compares with the checkpoint.
MAY_CHANGE = ("output_dir", "workers", "evaluation", "training", "step")
PACKAGES = (
    "torch",
    "deepspeed",
    "ray",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "faiss-cpu",
    "faiss-gpu",
)


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
        beside = self.run_file.with_suffix(".tmp")
        beside.write_text(text, "utf-8")
        beside.replace(self.run_file)

    def add_provenance(self, facts: dict[str, Any]) -> None:
        """Append the facts of this start."""
        starts: list[Any] = []
        if self.provenance.is_file():
            starts = json.loads(self.provenance.read_text("utf-8"))
        starts.append({**environment_facts(), **facts})
        beside = self.provenance.with_suffix(".tmp")
        beside.write_text(json.dumps(starts, indent=1) + "\n", "utf-8")
        beside.replace(self.provenance)


def environment_facts() -> dict[str, Any]:
    """Versions, place and command of this process; no secrets, no environment variables."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    program, *arguments = sys.argv
    typed = Path(program).name == "hbt-dist"  # a process of Ray or of a launcher tells nothing by its own
    return {
        **({"command": shlex.join(["hbt-dist", *arguments])} if typed else {}),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hbt_dist": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }


def changed_settings(
    before: dict[str, Any],
    now: dict[str, Any],
    *,
    may_change: Collection[str] = MAY_CHANGE,
    may_move: Collection[str] = get_args(User),
) -> list[str]:
    """In what two runs differ, such as ``optimizer.learning_rate: 0.1 there, 0.2 now``.

    Args:
        before, now: resolved run files as plain data.
        may_change: dotted keys that do not count, nor what is below them.
        may_move: whose paths do not count; of a DeepSpeed file its name does.
    """

    def moved(found: RunPath) -> str:
        if found.user not in may_move:
            return found.path
        return Path(found.path).name if found.pattern == "deepspeed.config" else "a path"

    if not any((run.get("loss") or {}).get("learn_temperature") for run in (before, now)):
        # Read by nothing then, and younger than many run files.
        may_change = {*may_change, "optimizer.temperature_learning_rate"}
    return [
        f"{key}: {_shown(old)} there, {_shown(new)} now"
        for key, old, new in _differences(with_paths(before, moved), with_paths(now, moved), "")
        if not any(f"{key}.".startswith(f"{free}.") for free in may_change)
    ]


def first_of(differences: list[str]) -> str:
    """The first three of `changed_settings`, for an error."""
    return "; ".join([*differences[:3], *(["..."] if len(differences) > 3 else [])])


def _differences(old: Any, new: Any, key: str) -> list[tuple[str, Any, Any]]:
    """Every leaf that differs: (dotted key, old value, new value); None where there is none."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [
            difference
            for name in names
            for difference in _differences(
                old.get(name), new.get(name), f"{key}.{name}" if key else str(name)
            )
        ]
    return [] if old == new else [(key, old, new)]


def _shown(value: Any, most: int = 100) -> str:
    """A value as the run file would have it, in one short line."""
    if value is None:
        return "nothing"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"
