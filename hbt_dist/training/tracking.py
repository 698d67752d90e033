"""Where a run's figures go: one JSON line per step, TensorBoard, and progress for whoever watches.

Only rank 0 tracks. The metrics file is the source of truth: a resumed run cuts it back to the step it
continues from, so that every step stands in it once.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from hbt_dist.training.run_folder import RunFolder


class Tracker:
    """Writes the figures of every step and shows progress.

    Args:
        folder: the run's folder.
        start: first step of this start; older lines stay, newer ones are cut.
        total: step at which the run ends.
        log_every: steps between lines (where no progress bar can be shown).
        tensorboard: also write TensorBoard event files.
        quiet: show nothing.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        start: int,
        total: int,
        log_every: int,
        tensorboard: bool,
        quiet: bool = False,
    ) -> None:
        self.folder = folder
        self.log_every = log_every
        cut_back(folder.metrics, start)
        self._file = folder.metrics.open("a", encoding="utf-8")
        self._log = folder.log.open("a", encoding="utf-8")
        self._board: Any = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._board = SummaryWriter(str(folder.tensorboard), purge_step=start)
        self._progress = StepProgress(start, total, quiet=quiet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._log.close()
        self._progress.close()
        if self._board is not None:
            self._board.close()

    def say(self, message: str) -> None:
        """Tell the user something, once, in the log and on the terminal."""
        self._log.write(message + "\n")
        self._log.flush()
        self._progress.say(message)

    def step(self, step: int, figures: dict[str, Any]) -> None:
        """Record the figures of one finished step (counted from 1)."""
        self._file.write(json.dumps({"step": step, **figures}) + "\n")
        if step % self.log_every == 0:
            self._file.flush()
        if self._board is not None and step % self.log_every == 0:
            for name, value in figures.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"train/{name}", value, step)
        self._progress.show(step, figures)

    def flush(self) -> None:
        """Make everything written so far visible to readers."""
        self._file.flush()


class StepProgress:
    """A bar on a terminal; elsewhere a line every few seconds, so that logs stay readable."""

    seconds_between_lines = 15.0

    def __init__(self, start: int, total: int, *, quiet: bool = False) -> None:
        self.total = total
        self.quiet = quiet
        self._start = start
        self._began = self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty() and not quiet:
            self._bar = tqdm(
                total=total, initial=start, desc="train", unit="step", dynamic_ncols=True, mininterval=0.5
            )

    def show(self, step: int, figures: dict[str, Any]) -> None:
        """Show a finished step."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {figures['loss']:.4f} {figures['kind']}", refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last < self.seconds_between_lines and step != self.total:
            return
        self._last = now
        done = step - self._start
        per_second = done / max(now - self._began, 1e-9)
        left = (self.total - step) / max(per_second, 1e-9)
        print(
            f"train: step {step}/{self.total}, loss {figures['loss']:.4f}, {per_second:.1f} steps/s, "
            f"{left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def say(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self._bar is not None:
            self._bar.clear()
        print(message, file=sys.stderr, flush=True)
        if self._bar is not None:
            self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()


def cut_back(metrics: Path, step: int) -> None:
    """Drop the lines of steps after `step`, and a last line that a crash left half-written."""
    if not metrics.is_file():
        return
    kept = []
    for line in metrics.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["step"] <= step:
            kept.append(line)
    beside = metrics.with_suffix(".tmp")
    beside.write_text("".join(line + "\n" for line in kept), "utf-8")
    beside.replace(metrics)
