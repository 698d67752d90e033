"""The folder of a search: the one record of what was tried and what came out, readable while it runs.

search.json             name, objectives, space, seeds, sampler, benchmark, fingerprint
search.yaml, base.yaml  the resolved search file; the base run that every point changes
points.jsonl            one line per point, in the order in which they were drawn
trials/p0003-s1/        point 3 trained with seed 1
  plan.json             what the trial is to do: its run, its benchmark
  trial.json            parameters, status, times, worker seconds, error
  history.jsonl         one line per measured checkpoint: step, seconds, objectives
  run/                  the run's own folder (run.yaml, metrics.jsonl, checkpoints/, model/)
  evaluation/step-50/   one evaluation folder per benchmark

Only lines are appended and whole files replaced, so a killed writer leaves at most half a last line, which
is cut off at the next start.
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
from hbt_dist.common.files import append_line, read_json_lines, write_json
from hbt_dist.config.difference import changed_settings, first_of
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.run_file import RunFile

FORMAT = 1
_HEAD = ("format", "hbt_dist", "started", "fingerprint")
Status = Literal["running", "finished", "stopped", "failed"]


def now() -> str:
    """The time in UTC, to the second."""
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
        """What `trial.json` says; none before the first start."""
        try:
            found = json.loads((self.folder / "trial.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(
                str(self.folder / "trial.json"), "is not JSON", f"remove {self.folder}: the trial runs again"
            ) from None
        assert isinstance(found, dict)
        return found

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
        """Its measured checkpoints, in order."""
        return read_json_lines(self.folder / "history.jsonl")


class SearchFolder:
    """Reads and writes the folder of a search (or of a study, whose points are its methods)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stop_file = root / "stop"
        self._lock = FileLock(root / ".lock")

    def open(
        self, described: dict[str, Any], files: Mapping[str, Any], may_grow: Collection[str] = ()
    ) -> bool:
        """Make the folder, or continue the one that is there; tells whether it was there.

        Args:
            described: what `search.json` says besides format, version and time.
            files: name -> content of further YAML files.
            may_grow: what of `described` may have more entries than before; those that were there stay.

        Raises:
            UserError: another process works there; it holds another search, or one of another format.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=10)
        except Timeout:
            raise UserError(
                str(self.root), "another process works on this search", "wait for it, or stop it"
            ) from None
        fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        before = self._read(self.root / "search.json")
        if before is not None:
            self._check(before, described, fingerprint, may_grow)
            if before["fingerprint"] != fingerprint:
                write_json(self.root / "search.json", {**before, **described, "fingerprint": fingerprint})
            self._write_files(files)  # what does not make it another one may have changed
            return True
        if any(self.root.glob("trials/*")):
            raise UserError(
                str(self.root),
                "holds trials but no search.json",
                "put search.json back, or move the folder away",
            )
        self._write_files(files)
        (self.root / "trials").mkdir(exist_ok=True)
        head = {"format": FORMAT, "hbt_dist": __version__, "started": now()}
        write_json(self.root / "search.json", {**head, **described, "fingerprint": fingerprint})
        return False

    def _write_files(self, files: Mapping[str, Any]) -> None:
        for name, content in files.items():
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            beside = self.root / f"{name}.tmp"
            beside.write_text(text, "utf-8")
            beside.replace(self.root / name)

    def close(self) -> None:
        """Let others write."""
        self._lock.release()

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(str(path), "is not JSON", "move the folder away, or mend the file") from None
        if not isinstance(found, dict):
            raise UserError(str(path), "is not a search", "choose another output_dir")
        return found

    def _check(
        self,
        before: dict[str, Any],
        described: dict[str, Any],
        fingerprint: str,
        may_grow: Collection[str],
    ) -> None:
        if before.get("format") != FORMAT:
            raise UserError(
                str(self.root / "search.json"),
                f"has format {before.get('format')!r}, written by hbt_dist {before.get('hbt_dist', '?')}; "
                f"this version reads format {FORMAT}",
                "choose another output_dir",
            )
        if before.get("fingerprint") != fingerprint:
            changed = [
                key
                for key in described
                if before.get(key) != described[key]
                and not (key in may_grow and _holds(described[key], before.get(key)))
            ]
            if not changed and set(before) == {*described, *_HEAD}:
                return
            differences = changed_settings(
                {key: before.get(key) for key in changed},
                {key: described[key] for key in changed},
                may_change=(),
                may_move=(),
            )
            kind = described.get("kind", "search")
            learn = "; warm_start lets optuna learn from the old one" if kind == "search" else ""
            raise UserError(
                str(self.root),
                f"holds another {kind} ({first_of(differences) or 'its settings differ'})",
                f"choose another output_dir, or put the file back as it was{learn}",
            )

    def points(self) -> list[dict[str, Any]]:
        """The recorded points, in order."""
        return read_json_lines(self.root / "points.jsonl")

    def add_point(self, parameters: dict[str, Any], source: str) -> int:
        """Record a new point and return its number."""
        number = len(self.points())
        append_line(self.root / "points.jsonl", {"point": number, "parameters": parameters, "source": source})
        return number

    def trial(self, point: int, seed: int, parameters: dict[str, Any]) -> Trial:
        """The trial of a point and a seed, begun or not."""
        return Trial(self.root / "trials" / f"p{point:04d}-s{seed}", point, seed, parameters)

    def trials(self) -> Iterator[Trial]:
        """Every trial that was begun."""
        for path in sorted(self.root.glob("trials/p*-s*/trial.json")):
            record = json.loads(path.read_text("utf-8"))
            yield Trial(path.parent, record["point"], record["seed"], record["parameters"])

    def outcome(self, trials: list[Trial], objectives: list[str]) -> dict[str, float] | None:
        """Mean over the seeds of a point at the last step that all have measured; none if there is none."""
        histories = [{line["step"]: line for line in trial.history()} for trial in trials]
        common = set.intersection(*(set(history) for history in histories))
        if not common or any(trial.status() == "failed" for trial in trials):
            return None
        lines = [history[max(common)] for history in histories]
        return {name: sum(line[name] for line in lines) / len(lines) for name in objectives}


def _holds(new: Any, old: Any) -> bool:
    """Whether every entry of a mapping or a list is in a new one, with the same value."""
    if isinstance(new, dict) and isinstance(old, dict):
        return all(key in new and new[key] == value for key, value in old.items())
    return isinstance(new, list) and isinstance(old, list) and all(value in new for value in old)
