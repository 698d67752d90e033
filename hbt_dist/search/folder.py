"""Record what a search tries and measures in its folder, readable while it runs.

search.json             name, objectives, space, seeds, sampler, benchmark, fingerprint
search.yaml, base.yaml  the resolved search file; the base run that every point changes
points.jsonl            one line per point, in the order in which they were drawn
trials/p0003-s1/        point 3 trained with seed 1
  plan.json             what the trial trains and measures
  trial.json            parameters, status, steps, times, worker seconds (without evaluation), error
  history.jsonl         one line per measured checkpoint: step, seconds, objectives
  run/                  the folder of the run (run.yaml, metrics.jsonl, checkpoints/, model/)
  evaluation/step-50/   one evaluation folder per benchmark

Writers append lines or replace whole files. A killed writer leaves at most an incomplete last line, which the
next start removes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from hbt_dist import __version__
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line, atomic_write, explained_write, read_json_lines, write_json
from hbt_dist.config.difference import changed_settings, first_of
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.files import kind_of
from hbt_dist.run_file import RunFile

FORMAT = 1
_HEAD = ("format", "hbt_dist", "started", "fingerprint")
Status = Literal["running", "finished", "stopped", "failed"]


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Trial:
    """One training of one point with one seed."""

    folder: Path
    point: int
    seed: int
    parameters: dict[str, Any]

    @property
    def name(self) -> str:
        """Such as ``p0003-s1``."""
        return self.folder.name

    def record(self) -> dict[str, Any] | None:
        """Return `trial.json`; None before the first start."""
        return read_object(self.folder / "trial.json", f"remove {self.folder}: the trial runs again")

    def status(self) -> Status | None:
        """Return the status in `trial.json`; None before the first start."""
        record = self.record()
        return None if record is None else record["status"]

    def must_run(self, *, retry_failed: bool = False) -> bool:
        """Return whether the trial has not ended, or failed and shall run again."""
        status = self.status()
        return status in (None, "running") or (retry_failed and status == "failed")

    def write_plan(
        self,
        run: RunFile,
        benchmark: BenchmarkSettings | None,
        *,
        final_benchmarks: tuple[BenchmarkSettings, ...] = (),
        every_checkpoint: bool = True,
    ) -> None:
        """Write `plan.json`: what the trial's process trains and measures.

        Args:
            run: of the trial, paths absolute, output_dir inside the trial's folder.
            benchmark: gives the objectives, at every checkpoint or at the end.
            final_benchmarks: measured once, on the trained model.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {
            "point": self.point,
            "seed": self.seed,
            "parameters": self.parameters,
            "run": run.plain(),
            "benchmark": None if benchmark is None else benchmark.model_dump(mode="json"),
            "final_benchmarks": [settings.model_dump(mode="json") for settings in final_benchmarks],
            "every_checkpoint": every_checkpoint,
        }
        write_json(self.folder / "plan.json", plan)

    def history(self) -> list[dict[str, Any]]:
        """Return the measured checkpoints, in order."""
        return read_json_lines(self.folder / "history.jsonl")


class SearchFolder:
    """The folder of a search, or of a study, whose points are its methods."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = FileLock(root / ".lock")

    def open(
        self, identity: dict[str, Any], files: Mapping[str, Any], may_grow: Collection[str] = ()
    ) -> bool:
        """Make the folder, or continue an existing one; return whether it existed.

        Args:
            identity: entries of `search.json` that a continued search must keep.
            files: name -> content of further YAML files.
            may_grow: keys of `identity` that may gain entries; old entries must stay.

        Raises:
            UserError: the folder cannot be written, another process uses it, or it holds another search.
        """
        with explained_write(self.root, "choose another output_dir"):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=10)
            except Timeout:
                remedy = "wait for that process, or stop it"
                raise UserError(str(self.root), "another process works on this search", remedy) from None
        fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        file = self.root / "search.json"
        before = read_object(file, "repair the file, or choose another output_dir")
        if before is not None:
            self._check(before, identity, fingerprint, may_grow)
        elif any(self.root.glob("trials/*")):
            raise UserError(
                str(self.root),
                "holds trials but no search.json",
                "restore search.json, or choose another output_dir",
            )
        for name, content in files.items():  # settings outside the identity may have changed
            atomic_write(self.root / name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        (self.root / "trials").mkdir(exist_ok=True)
        head = before or {"format": FORMAT, "hbt_dist": __version__, "started": now()}
        if head.get("fingerprint") != fingerprint:
            write_json(file, {**head, **identity, "fingerprint": fingerprint})
        return before is not None

    def close(self) -> None:
        """Release the folder for further processes."""
        self._lock.release()

    def _check(
        self,
        before: dict[str, Any],
        identity: dict[str, Any],
        fingerprint: str,
        may_grow: Collection[str],
    ) -> None:
        if before.get("format") != FORMAT:
            raise UserError(
                str(self.root / "search.json"),
                f"expected format {FORMAT}, got format {before.get('format')!r}, written by hbt_dist "
                f"{before.get('hbt_dist', '?')}",
                "choose another output_dir",
            )
        if before.get("fingerprint") == fingerprint:
            return
        changed = [
            key
            for key in identity
            if before.get(key) != identity[key]
            and not (key in may_grow and _extends(identity[key], before.get(key)))
        ]
        if not changed and set(before) == {*identity, *_HEAD}:
            return
        differences = changed_settings(
            {key: before.get(key) for key in changed},
            {key: identity[key] for key in changed},
            may_change=(),
            may_move=(),
        )
        kind = identity.get("kind", "search")
        learn = "; warm_start lets optuna learn from the old search" if kind == "search" else ""
        raise UserError(
            str(self.root),
            f"holds another {kind} ({first_of(differences) or 'its settings differ'})",
            f"choose another output_dir, or undo the change of the file{learn}",
        )

    def points(self) -> list[dict[str, Any]]:
        """Return the recorded points, in order."""
        return read_json_lines(self.root / "points.jsonl")

    def add_point(self, parameters: dict[str, Any], source: str) -> int:
        """Record a new point and return its number."""
        number = len(self.points())
        append_line(self.root / "points.jsonl", {"point": number, "parameters": parameters, "source": source})
        return number

    def trial(self, point: int, seed: int, parameters: dict[str, Any]) -> Trial:
        """Return the trial of a point and a seed, started or not."""
        return Trial(self.root / "trials" / f"p{point:04d}-s{seed}", point, seed, parameters)

    def trials(self) -> Iterator[Trial]:
        """Yield every started trial."""
        for path in sorted(self.root.glob("trials/p*-s*/trial.json")):
            record = read_object(path, f"remove {path.parent}: the trial runs again") or {}
            yield Trial(path.parent, record["point"], record["seed"], record["parameters"])

    def outcome(self, trials: list[Trial], objectives: list[str]) -> dict[str, float] | None:
        """Average a point's seeds at the last step that all have measured; None without such a step."""
        histories = [{line["step"]: line for line in trial.history()} for trial in trials]
        common = set.intersection(*(set(history) for history in histories))
        if not common or any(trial.status() == "failed" for trial in trials):
            return None
        lines = [history[max(common)] for history in histories]
        return {name: sum(line[name] for line in lines) / len(lines) for name in objectives}


def read_object(path: Path, remedy: str) -> dict[str, Any] | None:
    """Return the object of a JSON file; None without the file."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise UserError(str(path), "is not JSON", remedy) from None
    if not isinstance(content, dict):
        raise UserError(str(path), f"expected a JSON object, got {kind_of(content)}", remedy)
    return content


def _extends(new: Any, old: Any) -> bool:
    """Return whether a mapping or a list holds every entry of an old one."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(key in new and new[key] == value for key, value in old.items())
    return isinstance(new, list) and isinstance(old, list) and all(value in new for value in old)
