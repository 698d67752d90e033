"""Run many trainings on one cluster with Ray Tune: the trials of a search or a study.

Tune starts trials as the cluster has room and compares the running ones (successive halving). The search's
folder (`hbt_dist.search.folder`) is the only record, and Tune's state is never read again: a new start skips
finished trials, continues interrupted ones from their last checkpoint, and gives Optuna all finished points.

A trial reserves its driving process; its workers reserve a placement group later. Tune starts only as many
trials as fit with their workers, because trials without workers would wait for each other forever.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from ray.util.state import list_placement_groups

from hbt_dist.common.console import Say, say
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.common.signals import report_stop, stop_requests
from hbt_dist.orchestration.cluster import (
    Cluster,
    check_resources,
    connect,
    describe_nodes,
    in_words,
    worker_resources,
)
from hbt_dist.orchestration.interruption import Interruption, stop_file
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.orchestration.trial import run_trial
from hbt_dist.orchestration.trial_progress import shown_trials, title_of_trial
from hbt_dist.orchestration.trial_slots import Resources, trials_in_all, trials_that_fit
from hbt_dist.search.folder import SearchFolder, Trial, now
from hbt_dist.search.settings import OBJECTIVES, EarlyStopping
from hbt_dist.search.source import TrialSource
from hbt_dist.training.trackers import check_trackers

#: Tracker -> module and class of Tune's callback, argument that takes the name.
_TRACKERS = {
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", "project"),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", "experiment_name"),
}


def run_trials(
    source: TrialSource,
    folder: SearchFolder,
    workers: WorkerSettings,
    *,
    trial_resources: Mapping[str, float],
    max_concurrent: int | None = None,
    scheduler_for: Callable[[Interruption], Any] | None = None,
    trackers: Sequence[str] = (),
    say: Say = say,
) -> bool:
    """Run every trial of a source on the cluster that `workers` names, until all have ended.

    After SIGTERM or Ctrl-C the running trials save a checkpoint and end.

    Args:
        workers: of every trial.
        trial_resources: reserved for the process that drives a trial, in addition to its workers.
        max_concurrent: largest number of trials at a time; the cluster may hold fewer.
        scheduler_for: makes Tune's scheduler, which stops trials that fall behind.
        trackers: of `SearchFile.trackers`.

    Returns:
        whether all trials have ended; False after SIGTERM.

    Raises:
        UserError: the cluster cannot hold one trial, or a tracker is missing.
        KeyboardInterrupt: Ctrl-C; the running trials are saved.
    """
    check_trackers(trackers, "trackers")
    callbacks = _tracker_callbacks(trackers, folder)
    interruption = Interruption()
    scheduler = None if scheduler_for is None else scheduler_for(interruption)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A private cluster is large enough for the requested trials, with any number of cores.
    num_trials = max_concurrent or 1
    extra_cpus = trial_resources.get("CPU", 0.0) * num_trials
    extra_cpus += workers.num_workers * workers.cpus_per_worker * (num_trials - 1)
    with connect(workers, extra_cpus=extra_cpus, dashboard=True) as cluster:
        slots = concurrent_trials(cluster, workers, trial_resources, _free_resources(cluster))
        parallel = min(slots, max_concurrent or slots)
        say(f"{source.remaining()} trials to run, {parallel} at a time")
        if cluster.dashboard is not None:
            say(f"Ray's dashboard, until the last trial ends: {cluster.dashboard}")
        searcher = NextTrial(source, interruption, say)
        tuner = tune.Tuner(
            tune.with_resources(_trainable, dict(trial_resources)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=parallel,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%dT%H%M%S", time.gmtime()),
                storage_path=str(folder.root / "ray"),
                callbacks=callbacks,
                stop=interruption,
                failure_config=tune.FailureConfig(max_failures=2),  # of the process that drives a trial
                verbose=0,
            ),
        )
        with stop_requests(interruption.request), shown_trials(interruption.running, say):
            tuner.fit()
        problem = searcher.problem or getattr(scheduler, "problem", None)
        if problem is not None:
            raise problem
        _remove_placement_groups()
    if interruption.requested:
        ended = sum(trial.status() not in (None, "running") for trial in folder.trials())
        left = source.remaining() + len(interruption.running)
        report_stop(
            f"stopped as asked: {ended} trials have ended, {left} are left; the same command continues"
        )
    return not interruption.requested


def concurrent_trials(
    cluster: Cluster, workers: WorkerSettings, trial_resources: Mapping[str, float], free: Sequence[Resources]
) -> int:
    """Return how many trials the cluster holds at once, each with its workers; at least 1.

    A cluster with an autoscaler counts at its largest size, a fixed one by its current nodes. If other jobs
    leave no space, one trial waits for it.

    Args:
        free: unreserved resources of each node.

    Raises:
        UserError: even an idle cluster holds no trial.
    """
    worker = worker_resources(workers, check_resources(cluster, workers))
    names = {name for node in cluster.nodes for name in node}
    total = {name: sum(node.get(name, 0.0) for node in cluster.nodes) for name in names}
    total |= cluster.growth or {}
    if cluster.growth:
        slots = idle_slots = trials_in_all(total, trial_resources, worker, workers.num_workers)
    else:
        idle_slots = trials_that_fit(cluster.nodes, trial_resources, worker, workers)
        slots = trials_that_fit(free, trial_resources, worker, workers)
    if idle_slots < 1:
        raise UserError(
            "workers, trial_resources",
            f"a trial needs {workers.num_workers} workers x ({in_words(worker)}) and "
            f"{in_words(trial_resources)} for its own process, the cluster has "
            f"{describe_nodes(cluster.nodes, total)}",
            "lower workers.num_workers, workers.cpus_per_worker or trial_resources, or add nodes",
        )
    return max(1, slots)


def _free_resources(cluster: Cluster) -> Sequence[Resources]:
    """Return the unreserved resources of each node."""
    if cluster.private:
        return cluster.nodes
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def _trial_name(trial: Any) -> str:
    return f"{Path(trial.config['trial']).name}-{trial.trial_id}"


def _trainable(config: dict[str, Any]) -> None:
    """Run one trial in Tune's actor."""
    run_trial(Path(config["trial"]), tune.report)


def _tracker_callbacks(trackers: Sequence[str], folder: SearchFolder) -> list[Any]:
    """Return Tune's loggers for the trackers; TensorBoard is Tune's default."""
    if "tensorboard" not in trackers:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    callbacks: list[Any] = []
    for name in (tracker for tracker in trackers if tracker in _TRACKERS):
        module, callback, argument = _TRACKERS[name]
        kind = getattr(importlib.import_module(module), callback)
        callbacks.append(kind(**{argument: folder.root.name}))
    return callbacks


class NextTrial(Searcher):
    """Give Tune the trials of a source and report how they ended.

    Attributes:
        problem: the error of a source that could give no further trial; Tune itself would swallow it.
    """

    def __init__(self, source: TrialSource, interruption: Interruption, say: Say) -> None:
        super().__init__(metric=None, mode=None)
        self._source, self._interruption, self._say = source, interruption, say
        self.problem: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of the next trial."""
        trial: Trial | None = None
        if self.problem is None and not self._interruption.requested:
            try:
                trial = self._source.next()
            except Exception as error:  # raised when Tune has ended
                self.problem = error
        if trial is None:
            return Searcher.FINISHED
        self._interruption.running[trial_id] = trial
        return {"trial": str(trial.folder), "parameters": trial.parameters, "seed": trial.seed}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Report the end of a trial to the source and to the user."""
        running = self._interruption.running
        unfinished = running[trial_id].status() in (None, "running")
        if unfinished and self._interruption.requested:
            return  # the next start continues it
        trial = running.pop(trial_id)
        if unfinished:
            _mark_failed(trial)
        self._source.ended(trial)
        self._say(describe_end(trial, self._source.remaining() + len(running)))

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Halving(AsyncHyperBandScheduler):
    """Run asynchronous successive halving (arXiv 1810.05934) that stops a trial by a file instead of a kill.

    The scheduler knows a trial by its folder's name and not by Tune's number: after a new start of the search
    the trial is not judged again at a step that it has passed.
    """

    @classmethod
    def continued(cls, settings: EarlyStopping, folder: SearchFolder) -> Halving:
        """Return a scheduler that knows the measurements of earlier starts of the search."""
        mode = OBJECTIVES[settings.metric]
        scheduler = cls(
            time_attr="step",
            metric=settings.metric,
            mode=mode,
            grace_period=settings.first_step,
            max_t=2**31,
            reduction_factor=settings.reduction,
            stop_last_trials=False,
        )
        sign = 1.0 if mode == "max" else -1.0
        for trial in folder.trials():
            known: Any = SimpleNamespace(trial_id=trial.name)
            for line in trial.history():
                for bracket in scheduler._brackets:
                    bracket.on_result(known, line["step"], sign * line[settings.metric])
        return scheduler

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Create a stop file where halving would kill the trial."""
        if super().on_trial_result(tune_controller, self._known(trial), result) == TrialScheduler.STOP:
            stop_file(Path(trial.config["trial"])).touch()
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Judge the last result, unless it has been judged."""
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
        reason = (trial.folder / "error.txt").read_text("utf-8").splitlines()[0]
    except (OSError, IndexError):
        reason = "the process that drove the trial died three times"
    write_json(trial.folder / "trial.json", {**record, "status": "failed", "ended": now(), "error": reason})


def describe_end(trial: Trial, left: int) -> str:
    """Return one line about a trial that has ended."""
    record = trial.record() or {}
    head = f"{title_of_trial(trial)} {record.get('status')} after {record.get('seconds', 0):.0f} s"
    last = trial.history()[-1:]
    if record.get("status") == "failed":
        head += f": {str(record.get('error'))[:200]}"
    elif last:
        head += ": " + " ".join(f"{name} {last[0][name]:.4g}" for name in OBJECTIVES if name in last[0])
    return f"{head} ({left} left)"


def _remove_placement_groups(seconds: float = 10) -> None:
    """Wait until the placement groups of the trials are gone, and remove those that remain."""
    deadline = time.monotonic() + seconds
    try:
        while (names := _placement_groups_of_this_job()) and time.monotonic() < deadline:
            time.sleep(0.5)
    except Exception as error:  # all trials have ended, and a failed query must not lose their results
        print(f"cannot list the remaining placement groups: {error}", file=sys.stderr)
        return
    for name in names:
        print(f"removing a placement group that Ray kept: {name}", file=sys.stderr)
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


def _placement_groups_of_this_job() -> list[str]:
    """Return the living placement groups that this driver or its actors have made."""
    context = ray.get_runtime_context()
    alive = {name for name, facts in placement_group_table().items() if facts["state"] != "REMOVED"}
    if not alive:
        return []
    # Ray's State API prefers these variables to the address that it is given.
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["RAY_ADDRESS"] = context.gcs_address
    try:
        groups = list_placement_groups(filters=[("creator_job_id", "=", context.get_job_id())])
    finally:
        del os.environ["RAY_ADDRESS"]
        os.environ.update(before)
    return [group.placement_group_id for group in groups if group.placement_group_id in alive]
