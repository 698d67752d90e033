"""Many trainings on one cluster with Ray Tune: searches over settings, and studies.

Tune starts trials as the cluster has room, asks for the next one, and compares the running ones (successive
halving). What was tried and what came out stands in our own folder (`hbt_dist.search.folder`), so a search
continues from there after anything: finished trials are not run again, interrupted ones go on from their
last checkpoint, and Optuna starts with all finished points. Tune's own state is not needed for that.

A trial holds its own process beside its workers' (which Ray reserves later, in a placement group of its own).
Only as many trials are started as fit with their workers; otherwise they would wait for each other for ever.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.console import Say
from hbt_dist.common.console import say as say_line
from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import (
    Cluster,
    check_resources,
    connect,
    describe_nodes,
    in_words,
    worker_resources,
)
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.orchestration.trial_slots import Resources, trials_in_all, trials_that_fit
from hbt_dist.search.folder import SearchFolder
from hbt_dist.search.settings import EarlyStopping
from hbt_dist.search.source import TrialSource


def run_trials(
    source: TrialSource,
    folder: SearchFolder,
    workers: WorkerSettings,
    *,
    trial_resources: Mapping[str, float],
    max_concurrent: int | None = None,
    early_stopping: EarlyStopping | None = None,
    trackers: Sequence[str] = (),
    say: Say = say_line,
) -> None:
    """Run every trial of a source on the cluster that `workers` names; returns when all have ended.

    Args:
        workers: of every trial.
        trial_resources: what the process that drives a trial reserves, besides its workers.
        max_concurrent: at most so many trials at a time; never more than the cluster holds.
        early_stopping: stop trials that fall behind.
        trackers: of `SearchFile.trackers`.

    Raises:
        UserError: the cluster cannot hold one trial, or a tracker is missing.
    """
    callbacks = _tracker_callbacks(trackers, folder)
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # an interrupt ends at once: the folder has everything
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    # A cluster of our own is made large enough for the trials that were asked for, whatever the cores.
    wanted = max_concurrent or 1
    extra = trial_resources.get("CPU", 0.0) * wanted
    extra += workers.num_workers * workers.cpus_per_worker * (wanted - 1)
    with connect(workers, extra_cpus=extra) as cluster:
        room = concurrent_trials(cluster, workers, trial_resources, _free(cluster))
        parallel = min(room, max_concurrent or room)
        say(f"{source.remaining()} trials to run, {parallel} at a time")
        _tune(source, folder, parallel, trial_resources, early_stopping, callbacks, say)
        _await_freed()


def concurrent_trials(
    cluster: Cluster, workers: WorkerSettings, trial_resources: Mapping[str, float], free: Sequence[Resources]
) -> int:
    """How many trials the cluster holds at once, each with its workers.

    A cluster that grows is judged by what it may grow to in all, another one by its nodes as they are now.
    Where others hold so much that there is no room, one trial waits for them.

    Args:
        free: what nobody holds of each node.

    Raises:
        UserError: not one, even on an idle cluster.
    """
    use_gpu = check_resources(cluster, workers)
    worker = worker_resources(workers, use_gpu)
    if cluster.growth:
        room = idle = trials_in_all(
            {**_sum(cluster.nodes), **cluster.growth}, trial_resources, worker, workers.num_workers
        )
    else:
        idle = trials_that_fit(cluster.nodes, trial_resources, worker, workers)
        room = trials_that_fit(free, trial_resources, worker, workers)
    if idle < 1:
        own, total = in_words(trial_resources), {**_sum(cluster.nodes), **(cluster.growth or {})}
        raise UserError(
            "workers, trial_resources",
            f"a trial needs {workers.num_workers} workers x ({in_words(worker)}) and {own} for its own "
            f"process, the cluster has {describe_nodes(cluster.nodes, total)}",
            "lower workers.num_workers, workers.cpus_per_worker or trial_resources, or add nodes",
        )
    return max(1, room)


def _sum(nodes: Sequence[Resources]) -> dict[str, float]:
    names = {name for node in nodes for name in node}
    return {name: sum(node.get(name, 0.0) for node in nodes) for name in names}


def _free(cluster: Cluster) -> Sequence[Resources]:
    """What nobody holds of each node."""
    if cluster.private:
        return cluster.nodes
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def _tune(
    source: TrialSource,
    folder: SearchFolder,
    parallel: int,
    trial_resources: Mapping[str, float],
    early_stopping: EarlyStopping | None,
    callbacks: list[Any],
    say: Say,
) -> None:
    from ray import tune

    from hbt_dist.orchestration.tune_scheduling import Halving, NextTrial

    searcher = NextTrial(source, say)
    scheduler = None if early_stopping is None else Halving.of(early_stopping, folder)
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
            failure_config=tune.FailureConfig(max_failures=2),  # of the trial's own process
            verbose=0,
        ),
    )
    tuner.fit()
    if searcher.problem is not None:
        raise searcher.problem


def _trial_name(trial: Any) -> str:
    return f"{Path(trial.config['trial']).name}-{trial.trial_id}"


def _trainable(config: dict[str, Any]) -> None:
    """What Tune runs for each trial."""
    from ray import tune

    from hbt_dist.orchestration.trial import run_trial

    run_trial(Path(config["trial"]), tune.report)


def _tracker_callbacks(trackers: Sequence[str], folder: SearchFolder) -> list[Any]:
    """Tune's loggers for the trackers that were asked for; TensorBoard is Tune's own default."""
    if "tensorboard" not in trackers:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    found: list[Any] = []
    for name in trackers:
        try:
            if name == "wandb":
                importlib.import_module("wandb")
                from ray.air.integrations.wandb import WandbLoggerCallback

                found.append(WandbLoggerCallback(project=folder.root.name))
            elif name == "mlflow":
                importlib.import_module("mlflow")
                from ray.air.integrations.mlflow import MLflowLoggerCallback

                found.append(MLflowLoggerCallback(experiment_name=folder.root.name))
        except ImportError:
            raise UserError(
                "trackers", f"{name} is not installed", f"pip install {name}, or leave it out"
            ) from None
    return found


def _await_freed(seconds: float = 10) -> None:
    """Wait until the trials' placement groups are gone; remove what stays."""
    import ray
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    deadline = time.monotonic() + seconds
    try:
        while (mine := _own_placement_groups()) and time.monotonic() < deadline:
            time.sleep(0.5)
    except Exception as error:  # all trials have ended: a look at what is left must not lose that
        print(f"could not look for placement groups that are left: {error}", file=sys.stderr)
        return
    for name in mine:
        print(f"removing a placement group that Ray kept: {name}", file=sys.stderr)
        remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))


def _own_placement_groups() -> list[str]:
    """Living placement groups that this driver or one of its actors has made."""
    import ray
    from ray.util.placement_group import placement_group_table
    from ray.util.state import list_placement_groups

    context = ray.get_runtime_context()
    alive = {name for name, facts in placement_group_table().items() if facts["state"] != "REMOVED"}
    if not alive:
        return []
    # Ray's State API prefers the environment to the address that it is given.
    names = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ["RAY_ADDRESS"] = context.gcs_address
    try:
        groups = list_placement_groups(filters=[("creator_job_id", "=", context.get_job_id())])
    finally:
        del os.environ["RAY_ADDRESS"]
        os.environ.update(before)
    return [group.placement_group_id for group in groups if group.placement_group_id in alive]
