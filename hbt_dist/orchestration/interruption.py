"""Stop the running trials of a search on request: they save a checkpoint, and the next start continues them.

A trial that trains gets a stop file and ends after its running step. Trials that start or evaluate have
nothing to save: they end when no trial trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune import Stopper

from hbt_dist.search.folder import Trial
from hbt_dist.training.run_folder import RunFolder

_INTERRUPTED = "interrupted\n"


def stop_file(trial: Path) -> Path:
    """Return the file that ends the training of a trial's folder after its running step."""
    return trial / "stop"


def is_interrupted(trial: Path) -> bool:
    """Return whether the stop file of a trial's folder is a pause: the next start continues the trial."""
    file = stop_file(trial)
    return file.is_file() and file.read_text("utf-8") == _INTERRUPTED


class Interruption(Stopper):  # type: ignore[misc]
    """End Tune's experiment once a stop is requested and no trial trains.

    Attributes:
        requested: a stop is requested.
        running: Tune's number -> running trial.
    """

    def __init__(self) -> None:
        self.requested = False
        self.running: dict[str, Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def request(self) -> None:
        """Request the stop; a signal handler can call it."""
        self.requested = True

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return False: trials end by their stop files."""
        return False

    def stop_all(self) -> bool:
        """Create the stop files once a stop is requested, and return whether all trials can end.

        Tune calls it several times per second. A trial removes the stop file when its training starts.
        """
        if not self.requested:
            return False
        for trial in self.running.values():
            if not stop_file(trial.folder).exists():
                stop_file(trial.folder).write_text(_INTERRUPTED, "utf-8")
        return not any(RunFolder(trial.folder / "run").in_use() for trial in self.running.values())
