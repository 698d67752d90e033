"""What Ray Tune calls while a search runs: the searcher gives the next trial, the scheduler stops some.

Apart from `search.py` because it imports Tune at the top. Tune pickles both into its own state, which is
never read again: the search's folder is the record.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from hbt_dist.common.files import write_json
from hbt_dist.search.folder import SearchFolder, Trial, now
from hbt_dist.search.settings import OBJECTIVES, EarlyStopping
from hbt_dist.search.source import TrialSource


class NextTrial(Searcher):
    """Gives Tune the trials of a source and says what became of them.

    Attributes:
        problem: why the source could give no more, if that is so; Tune itself would swallow it.
    """

    def __init__(self, source: TrialSource, say: Callable[[str], None]) -> None:
        super().__init__(metric=None, mode=None)
        self._source, self._say = source, say
        self._running: dict[str, Trial] = {}
        self.problem: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the next trial."""
        trial: Trial | None = None
        if self.problem is None:
            try:
                trial = self._source.next()
            except Exception as error:
                self.problem = error
        if trial is None:
            return Searcher.FINISHED
        self._running[trial_id] = trial
        return {"trial": str(trial.folder), "parameters": trial.parameters, "seed": trial.seed}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the source, and the user."""
        trial = self._running.pop(trial_id)
        if trial.status() in (None, "running"):
            _mark_failed(trial)
        self._source.ended(trial)
        self._say(describe_end(trial, self._source.remaining() + len(self._running)))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class Halving(AsyncHyperBandScheduler):
    """Asynchronous successive halving (arXiv 1810.05934) that asks a trial to stop instead of killing it.

    A trial goes by its folder's name, not by Tune's number: continued after a new start of the search it is
    the same trial, and is not judged again at a step that it has passed.
    """

    @classmethod
    def of(cls, settings: EarlyStopping, folder: SearchFolder) -> Halving:
        """A scheduler that knows what earlier starts of the search have measured."""
        scheduler = cls(
            time_attr="step",
            metric=settings.metric,
            mode=OBJECTIVES[settings.metric],
            grace_period=settings.first_step,
            max_t=2**31,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        sign = 1.0 if OBJECTIVES[settings.metric] == "max" else -1.0
        for trial in folder.trials():
            known: Any = SimpleNamespace(trial_id=trial.name)
            for line in trial.history():
                for bracket in scheduler._brackets:
                    bracket.on_result(known, line["step"], sign * line[settings.metric])
        return scheduler

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Leave a stop file where halving would kill."""
        if super().on_trial_result(tune_controller, self._known(trial), result) == TrialScheduler.STOP:
            (Path(trial.config["trial"]) / "stop").touch()
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Judge the last result, if that has not been done."""
        super().on_trial_complete(tune_controller, self._known(trial), result)

    def _known(self, trial: Any) -> Any:
        name = Path(trial.config["trial"]).name
        self._trial_info[name] = self._trial_info[trial.trial_id]  # its bracket
        return SimpleNamespace(trial_id=name)


def _mark_failed(trial: Trial) -> None:
    record = trial.record() or {
        "trial": trial.name,
        "point": trial.point,
        "seed": trial.seed,
        "parameters": trial.parameters,
        "started": now(),
        "steps": 0,
    }
    try:
        why = (trial.folder / "error.txt").read_text("utf-8").splitlines()[0]
    except (OSError, IndexError):
        why = "the process that drove the trial died three times"
    write_json(trial.folder / "trial.json", {**record, "status": "failed", "ended": now(), "error": why})


def describe_end(trial: Trial, left: int) -> str:
    """One line about a trial that has ended."""
    record = trial.record() or {}
    shown = " ".join(f"{key.split('.')[-1]}={_short(value)}" for key, value in trial.parameters.items())
    head = f"{trial.name} {shown} {record.get('status')} after {record.get('seconds', 0):.0f} s"
    last = trial.history()[-1:]
    if record.get("status") == "failed":
        head += f": {str(record.get('error'))[:200]}"
    elif last:
        head += ": " + " ".join(f"{name} {last[0][name]:.4g}" for name in OBJECTIVES if name in last[0])
    return f"{head} ({left} left)"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "/".join(f"{key}:{_short(one)}" for key, one in value.items())
    return str(value)
