"""Record the figures of a run: one JSON line per step, and progress on the terminal.

Only rank 0 records. The metrics file is the source of truth: a resumed run cuts it back to the step it
continues from, so that it holds every step once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hbt_dist.common.console import Progress, counted, duration
from hbt_dist.common.files import atomic_write, read_json_lines
from hbt_dist.training.masked_columns import bare_rows_warning
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.temperature_check import TemperatureCheck


class Tracker:
    """Write the figures of every step and show progress; `hbt_dist.training.trackers` follows the file.

    Args:
        folder: the run's folder.
        start: first step of this start; older lines stay, newer lines are cut.
        total: step at which the run ends.
        columns: passages of a global batch, for the check of the temperature; default: no check.
        quiet: show nothing.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        start: int,
        total: int,
        columns: int | None = None,
        quiet: bool = False,
    ) -> None:
        self.folder = folder
        kept = [row for row in read_json_lines(folder.metrics) if row["step"] <= start]
        atomic_write(folder.metrics, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = folder.metrics.open("a", encoding="utf-8", buffering=1)  # readers follow line by line
        self._log = folder.log.open("a", encoding="utf-8")
        self._progress = StepProgress(start, total, quiet=quiet)
        self.quiet = quiet
        self._warned = False
        self._temperature = None if columns is None else TemperatureCheck(columns)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._log.close()
        self._progress.close()

    def say(self, message: str) -> None:
        """Write a message to the log and to the terminal."""
        self._log.write(message + "\n")
        self._log.flush()
        self._progress.say(message)

    def step(self, step: int, figures: dict[str, Any]) -> None:
        """Record the figures of one finished step (counted from 1)."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        self._progress.show(step, figures)
        if not self._warned and (warning := bare_rows_warning(step, figures)):
            self._warned = True
            self.say(warning)
        if self._temperature is not None and (advice := self._temperature.line(step, figures)):
            self.say(advice)


class StepProgress(Progress):
    """Progress over optimizer steps, with the last loss."""

    def __init__(self, start: int, total: int, *, quiet: bool = False) -> None:
        super().__init__(total, "train", "step", initial=start, disable=quiet)

    def show(self, step: int, figures: dict[str, Any]) -> None:
        """Show a finished step."""
        self.update(step - self.n, note=f"loss {figures['loss']:.4f}")


@dataclass(frozen=True)
class Outcome:
    """How far a run is, over all its starts; the last line of `hbt-dist train`."""

    steps: int
    of_steps: int
    finished: bool
    seconds: float  #: of the steps, without checkpoints and evaluations
    loss: float | None  #: of the last step
    folder: str
    model: str | None

    def __str__(self) -> str:
        loss = "" if self.loss is None else f", last loss {self.loss:.4g}"
        return f"trained {counted(self.steps, 'step')} in {duration(self.seconds)}{loss}; model: {self.model}"


def outcome(folder: RunFolder, of_steps: int) -> Outcome:
    """Return how far the run of a folder is.

    Args:
        folder: of the run.
        of_steps: `training.steps` of the run file.
    """
    rows = read_json_lines(folder.metrics)
    last = rows[-1] if rows else {"step": 0}
    finished = last["step"] >= of_steps and folder.model.is_dir()
    return Outcome(
        steps=last["step"],
        of_steps=of_steps,
        finished=finished,
        seconds=round(sum(row.get("seconds", 0.0) for row in rows), 1),
        loss=last.get("loss"),
        folder=_shown(folder.root),
        model=_shown(folder.model) if finished else None,
    )


def _shown(path: Path) -> str:
    """Return the path relative to the current folder, if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
