"""`hbt-dist search`: check everything, then run the trials; the same command continues."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_dist.progress import say
from hbt_dist.search.config import OBJECTIVES, SearchFile
from hbt_dist.search.folder import SearchFolder
from hbt_dist.search.space import Base, absolute, check_benchmark, check_space
from hbt_dist.settings import load_settings


def load_search_file(path: str, overrides: Sequence[str] = ()) -> tuple[SearchFile, Base]:
    """Read a search file and its base run, and try the space on it.

    Raises:
        UserError: something in them cannot be.
    """
    search = absolute(load_settings(SearchFile, Path(path), overrides))
    base = Base.load(search.run, search.overrides)
    check_space(search, base, path)
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
        dry_run: check everything and tell what would run, but start nothing.
        retry_failed: run trials again that failed.

    Returns:
        the folder of the search.

    Raises:
        UserError: the search cannot be done as asked.
    """
    from hbt_dist.orchestration.search import SearchSource, run_trials

    search, base = load_search_file(path, overrides)
    whole = base.run({}, place=path)
    check_benchmark(search, whole, path)
    folder = SearchFolder(Path(search.output_dir))
    if dry_run:
        _tell_plan(search, folder)
        return folder.root
    continued = folder.open(
        _described(search),
        {
            "search.yaml": search.model_dump(mode="json"),
            "base.yaml": whole.model_dump(mode="json", exclude_unset=True),
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
            whole.workers,
            trial_resources=search.trial_resources,
            max_concurrent=search.max_concurrent,
            early_stopping=search.early_stopping,
            trackers=search.trackers,
            say=(lambda text: None) if quiet else say,
        )
    finally:
        folder.close()
    return folder.root


def _described(search: SearchFile) -> dict[str, object]:
    """What makes a search this search; a continued one may change concurrency, resources and trackers."""
    data = search.model_dump(mode="json")
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


def _tell_plan(search: SearchFile, folder: SearchFolder) -> None:
    count = search.num_points()
    print(f"{search.name}: {count} points x {len(search.seeds)} seeds = {count * len(search.seeds)} trials")
    for key, dimension in search.space.items():
        print(f"  {key}: {dimension.describe()}")
    print(f"judged by {', '.join(search.objectives)} on {search.benchmark.label}; folder {folder.root}")
