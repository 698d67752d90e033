"""Print the running trials' steps: `p0001-s0 alpha=0.5: step 30 of 60, loss 1.23`.

The process of a search or study follows the metrics files of its trials, every 15 seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from hbt_dist.common.console import SECONDS_BETWEEN_LINES, Say
from hbt_dist.search.folder import Trial
from hbt_dist.training.follow import NewLines, polled
from hbt_dist.training.run_folder import RunFolder


def shown_trials(running: Mapping[str, Trial], say: Say) -> AbstractContextManager[None]:
    """Print a line for each trial that has made steps since its last line, during the block.

    Args:
        running: trials that run now; it changes during the block.
        say: prints a line.
    """
    return polled(_Trials(running, say).read, "trials", SECONDS_BETWEEN_LINES)


class _Trials:
    def __init__(self, running: Mapping[str, Trial], say: Say) -> None:
        self._running, self._say = running, say
        self._lines: dict[str, NewLines] = {}

    def read(self) -> None:
        for trial in list(self._running.values()):
            if trial.name not in self._lines:
                self._lines[trial.name] = NewLines(RunFolder(trial.folder / "run").metrics)
            for row in list(self._lines[trial.name].rows())[-1:]:
                step = f"step {row['step']} of {_steps(trial)}, loss {row['loss']:.4g}"
                self._say(f"{title_of_trial(trial)}: {step}")


def title_of_trial(trial: Trial) -> str:
    """Return a trial's name and parameters: `p0001-s0 alpha=0.5`."""
    return " ".join(
        [trial.name, *(f"{key.split('.')[-1]}={_short(v)}" for key, v in trial.parameters.items())]
    )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "/".join(f"{key}:{_short(entry)}" for key, entry in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _steps(trial: Trial) -> int:
    plan = json.loads((trial.folder / "plan.json").read_text("utf-8"))
    return int(plan["run"]["training"]["steps"])
