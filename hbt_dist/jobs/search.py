"""Run a search: check everything, then run the trials; the same command continues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hbt_dist.common.console import say
from hbt_dist.common.errors import UserError
from hbt_dist.config.difference import changed_settings, first_of
from hbt_dist.config.settings import load_settings
from hbt_dist.config.user_functions import is_user_function, load_user_function
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder
from hbt_dist.search.settings import OBJECTIVES, SearchFile
from hbt_dist.search.source import SearchSource
from hbt_dist.search.space import Base, absolute, check_benchmark, check_space
from hbt_dist.training.teacher_checks import check_models
from hbt_dist.training.trackers import check_trackers

#: Settings of the base run that do not change a trial's figures, or that every trial replaces.
CHANGES_NO_FIGURE = (
    "name",
    "seed",
    "output_dir",
    "workers",
    "step",
    *(f"evaluation.{key}" for key in ("benchmarks", "when", "checkpoint_benchmarks", "checkpoint_gpus")),
    *(f"evaluation.scoring.{key}" for key in ("num_shards", "num_threads", "device", "rows_per_file")),
    *(f"evaluation.scoring.{key}" for key in ("max_tokens_per_batch", "top_k", "ranked_lists")),
    *(f"training.{key}" for key in ("keep_checkpoints", "keep_every", "keep_best", "storage", "trackers")),
    *(f"training.{key}" for key in ("hang_timeout_seconds", "log_every", "threads_per_worker")),
)


def load_search_file(path: str, overrides: Sequence[str] = ()) -> tuple[SearchFile, Base]:
    """Read a search file and its base run, and validate the space on the run.

    Raises:
        UserError: a value is impossible.
    """
    search = absolute(load_settings(SearchFile, Path(path), overrides), Path(path))
    base = Base.load(search.run, search.overrides)
    check_space(search, base, path)
    stopping = search.early_stopping
    for key, name in (
        ("sampler.kind", search.sampler.kind),
        ("early_stopping.scheduler", (stopping and stopping.scheduler) or ""),
    ):
        if is_user_function(name):
            load_user_function(name, f"{path}, {key}")
    return search, base


def search_job(
    path: str,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> Path:
    """Run or continue a search.

    Args:
        path: the search file.
        overrides: ``dotted.key=value`` items for the search file.
        dry_run: check everything and print the plan, but start nothing.
        retry_failed: run failed trials again.

    Returns:
        the folder of the search.

    Raises:
        UserError: the search is impossible.
        KeyboardInterrupt: Ctrl-C; the running trials are saved.
    """
    from hbt_dist.orchestration.tune import run_trials

    search, base = load_search_file(path, overrides)
    run = base.run({}, location=path)
    check_benchmark(search, run, path)
    check_models(base.run({key: values.corners()[0] for key, values in search.space.items()}, location=path))
    folder = SearchFolder(Path(search.output_dir))
    check_base(folder, search, run)
    check_trackers(search.trackers, "trackers")
    if dry_run:
        _print_plan(search, folder)
        return folder.root
    continued = folder.open(
        _identity(search),
        {
            "search.yaml": search.model_dump(mode="json"),
            "base.yaml": run.model_dump(mode="json", exclude_unset=True),
        },
    )
    try:
        source = SearchSource(search, base, folder, retry_failed=retry_failed)
        if continued and not quiet:
            ended = sum(trial.status() not in (None, "running") for trial in folder.trials())
            say(f"continuing: {ended} trials have ended")
        if search.warm_start:
            say(f"learned from {source.warm_start()} points of earlier searches")
        run_trials(
            source,
            folder,
            run.workers,
            trial_resources=search.trial_resources,
            max_concurrent=search.max_concurrent,
            scheduler_for=_scheduler_for(search, folder),
            trackers=search.trackers,
            say=(lambda text: None) if quiet else say,
        )
    finally:
        folder.close()
    return folder.root


def _scheduler_for(search: SearchFile, folder: SearchFolder) -> Callable[[Any], Any] | None:
    """Return what makes Tune's scheduler of a search, if it stops trials early."""
    from hbt_dist.orchestration.tune import Halving
    from hbt_dist.orchestration.user_scheduler import UserScheduler

    stopping = search.early_stopping
    if stopping is None:
        return None
    if stopping.scheduler is None:
        return lambda _: Halving.continued(stopping, folder)
    return partial(UserScheduler, search, folder)


def check_base(folder: SearchFolder, search: SearchFile, base: RunFile) -> None:
    """Check that the base run has not changed since the first trial.

    Ignores keys of the space, and settings that do not change a figure.

    Raises:
        UserError: it has changed; names the settings.
    """
    file = folder.root / "base.yaml"
    if not file.is_file():
        return
    differences = changed_settings(
        load_settings(RunFile, file).plain(),
        base.plain(),
        may_change=(*CHANGES_NO_FIGURE, *search.space),
        may_move=("made",),
    )
    if differences:
        raise UserError(
            str(folder.root),
            f"its trials so far began with another base run ({first_of(differences)})",
            f"undo the change of {search.run} (base.yaml has the old run), or choose another output_dir;\n"
            "warm_start lets optuna learn from the old search",
        )


def _identity(search: SearchFile) -> dict[str, object]:
    """Return the settings that a continued search must keep: not concurrency, resources, trackers."""
    data = search.model_dump(mode="json")
    if search.early_stopping is not None and search.early_stopping.scheduler is None:
        del data["early_stopping"]["scheduler"]  # searches of earlier versions have no such key
    return {
        "name": search.name,
        "objectives": {name: OBJECTIVES[name] for name in search.objectives},
        "space": {key: dimension.describe() for key, dimension in search.space.items()},
        "seeds": search.seeds,
        "sampler": data["sampler"],
        "benchmark": data["benchmark"],
        "run": search.run,
        "overrides": search.overrides,
        "early_stopping": data["early_stopping"],
    }


def _print_plan(search: SearchFile, folder: SearchFolder) -> None:
    count = search.num_points()
    print(f"{search.name}: {count} points x {len(search.seeds)} seeds = {count * len(search.seeds)} trials")
    for key, dimension in search.space.items():
        print(f"  {key}: {dimension.describe()}")
    print(f"judged by {', '.join(search.objectives)} on {search.benchmark.label}; folder {folder.root}")
