"""Let a scheduler of Ray Tune that a function of the user makes stop the trials of a search.

A trial is stopped by its stop file, as successive halving does it. Schedulers that pause trials or change
their settings are refused: a trial is a whole training with separate workers, and has no paused state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.schedulers import (
    FIFOScheduler,
    HyperBandScheduler,
    PopulationBasedTraining,
    ResourceChangingScheduler,
    TrialScheduler,
)

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import user_error
from hbt_dist.orchestration.interruption import Interruption, stop_file
from hbt_dist.search.folder import SearchFolder
from hbt_dist.search.settings import OBJECTIVES, SearchFile
from hbt_dist.search.user_sampler import call_user_function

_LOCATION = "early_stopping.scheduler"
_REMEDY = "return a scheduler that continues or stops trials, such as AsyncHyperBandScheduler"
_UNSUPPORTED = (HyperBandScheduler, PopulationBasedTraining, ResourceChangingScheduler)


class NamedTrial:
    """A trial as a user's scheduler sees it: known by its folder's name, also after a new start.

    Attributes:
        trial_id: such as ``p0003-s1``.
        config: the parameters of its point.
    """

    status = "RUNNING"

    def __init__(self, trial_id: str, config: dict[str, Any]) -> None:
        self.trial_id, self.config = trial_id, config


class UserScheduler(FIFOScheduler):
    """Pass results to a user's scheduler and turn its decision to stop into a stop file.

    Attributes:
        problem: what the scheduler raised, or its unsupported decision; Tune itself would swallow it.
    """

    def __init__(self, search: SearchFile, folder: SearchFolder, interruption: Interruption) -> None:
        """Make the scheduler, and give it the measurements of earlier starts, with None as controller.

        Raises:
            UserError: the function of the user makes no scheduler that can be used.
        """
        super().__init__()
        stopping = search.early_stopping
        assert stopping is not None
        assert stopping.scheduler is not None
        self.problem: UserError | None = None
        self._name, self._interruption = stopping.scheduler, interruption
        self._made = call_user_function(self._name, search, _LOCATION)
        if not isinstance(self._made, TrialScheduler) or isinstance(self._made, _UNSUPPORTED):
            raise UserError(
                _LOCATION,
                f"{self._name}: expected a scheduler of Ray Tune that never pauses a trial, "
                f"got {type(self._made).__name__}",
                _REMEDY,
            )
        if self._made.metric is None:
            self._made.set_search_properties(stopping.metric, OBJECTIVES[stopping.metric])
        self._trials: dict[str, NamedTrial] = {}
        for trial in folder.trials():
            named = self._named(trial.name, trial.parameters)
            self._call("on_trial_add", None, named)
            for line in trial.history():
                self._judge(None, named, {name: line[name] for name in ("step", *search.objectives)})

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Return True: the scheduler has its metric."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Add a trial."""
        self._call("on_trial_add", tune_controller, self._of(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Create a stop file where the scheduler stops the trial."""
        if self._judge(tune_controller, self._of(trial), result) == TrialScheduler.STOP:
            stop_file(Path(trial.config["trial"])).touch()
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Report the end of a trial to the scheduler."""
        self._call("on_trial_complete", tune_controller, self._of(trial), result)

    def _judge(self, controller: Any, trial: NamedTrial, result: dict[str, Any]) -> str:
        decision = self._call("on_trial_result", controller, trial, result) or TrialScheduler.CONTINUE
        if decision not in (TrialScheduler.CONTINUE, TrialScheduler.STOP):
            problem = f"{self._name}: expected CONTINUE or STOP, got {decision}: trials cannot pause"
            self._end(UserError(_LOCATION, problem, _REMEDY))
        return str(decision)

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call the scheduler until it has a problem."""
        if self.problem is not None:
            return None
        try:
            return getattr(self._made, method)(*arguments)
        except Exception as error:  # the user's scheduler can raise anything
            self._end(user_error(error, self._name, f"{_LOCATION}, {method}"))
            return None

    def _end(self, problem: UserError) -> None:
        """End the search; running trials save a checkpoint."""
        self.problem = problem
        self._interruption.request()

    def _of(self, trial: Any) -> NamedTrial:
        return self._named(Path(trial.config["trial"]).name, trial.config["parameters"])

    def _named(self, name: str, parameters: dict[str, Any]) -> NamedTrial:
        return self._trials.setdefault(name, NamedTrial(name, parameters))
