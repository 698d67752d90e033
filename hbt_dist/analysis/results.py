"""Read a search folder into tables: trials, their evaluations, and points averaged over seeds.

    results = load_search("searches/alpha")
    results.points            # one row per point: parameters, mean, std and count over seeds
    results.history           # one row per evaluated checkpoint of a trial

Also reads a search that still runs, and files that end in half a line because their writer was killed. Only
JSON is read, so neither Ray nor the models are needed: a hundred trials with twenty evaluations each load in
well under a second.

Columns of objectives carry the objective's name. In tables over seeds that is the mean, next to `NAME_std`
(sample standard deviation, NaN for one seed) and `NAME_count`. Parameters carry their dotted key; shares of a
mixture have a column each (`batches.mixture.monolingual`), other structured values are JSON text.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hbt_dist.common.errors import UserError
from hbt_dist.search.folder import FORMAT, SearchFolder, read_object

#: Listed choices of a number that span at least this ratio are plotted over the logarithm.
LOG_RATIO = 100.0


@dataclass(frozen=True)
class SearchResults:
    """The tables of a search."""

    folder: Path
    search: dict[str, Any]  # search.json
    objectives: dict[str, str]  # name -> "max" | "min"
    parameters: tuple[str, ...]  # columns of the parameters in `points` and `trials`
    trials: pd.DataFrame  # one row per trial; objectives of its last evaluation
    history: pd.DataFrame  # one row per trial and evaluated step
    points: pd.DataFrame  # one row per evaluated point, at the step described in `load_search`
    point_values: dict[int, dict[str, Any]]  # point -> parameters as a run file takes them
    log_parameters: frozenset[str] = frozenset()  # numbers to plot over the logarithm

    @property
    def name(self) -> str:
        """Name of the search."""
        return str(self.search.get("name") or self.folder.name)


def load_search(folder: str | Path) -> SearchResults:
    """Read the folder that `hbt-dist search` writes, also while it still writes.

    A point's row in `points` holds its seeds at one common step: of the steps that most of its seeds have
    evaluated, the latest. If all seeds of a point are evaluated at the same steps, this is the last common
    evaluation; a seed that was stopped early sets the step for all, so that the spread is a spread of seeds
    and not of training lengths. Seeds without any evaluation do not count. If a restarted trial evaluated a
    step twice, the later line holds.

    Raises:
        UserError: the folder is not a search, or of another format; a file is damaged; no trial has been
            evaluated; an evaluation does not report an objective of the search.
    """
    folder = Path(folder)
    search = _read_search(folder)
    objectives: dict[str, str] = search["objectives"]
    drawn = SearchFolder(folder).points()
    values = {line["point"]: line["parameters"] for line in drawn}
    sources = {line["point"]: line.get("source") for line in drawn}
    trials, history = _read_trials(SearchFolder(folder), list(objectives))
    if not history:
        counts = Counter(trial["status"] for trial in trials)
        statuses = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none started"
        raise UserError(
            str(folder),
            f"holds no evaluated trial yet ({statuses})",
            "wait for the first evaluation; if a trial failed, its trial.json holds the error",
        )
    values = {trial["point"]: trial["parameters"] for trial in trials} | values
    parameter_table = _parameter_table(values, sources)
    history_table = pd.DataFrame(history)
    trial_table = _trial_table(trials, history_table, objectives)
    point_table = _point_table(history_table, trial_table, objectives)
    return SearchResults(
        folder=folder,
        search=search,
        objectives=objectives,
        parameters=tuple(parameter_table.columns[2:]),
        trials=trial_table.merge(parameter_table, on="point", how="left"),
        history=history_table,
        points=point_table.merge(parameter_table, on="point", how="left"),
        point_values=values,
        log_parameters=_log_parameters(parameter_table, search.get("space")),
    )


def seed_means(history: pd.DataFrame, objectives: dict[str, str]) -> pd.DataFrame:
    """Average the seeds of each point at each step.

    Args:
        history: rows with point, seed, step and a column per objective.

    Returns:
        one row per (point, step), sorted: point, step, num_seeds, and NAME, NAME_std, NAME_count of each
        objective; missing values do not count.
    """
    groups = history.groupby(["point", "step"], sort=True)
    columns: dict[str, Any] = {"num_seeds": groups["seed"].nunique()}
    for name in objectives:
        columns[name] = groups[name].mean()
        columns[f"{name}_std"] = groups[name].std(ddof=1)
        columns[f"{name}_count"] = groups[name].count()
    return pd.DataFrame(columns).reset_index()


def candidates(results: SearchResults) -> pd.DataFrame:
    """Average every evaluated checkpoint over the seeds that evaluated its step, and add its parameters.

    All evaluated checkpoints are candidates, not only the last: longer training may trade one objective for
    another, so the best model of a run need not be its last.

    Returns:
        one row per (point, step); columns as in `SearchResults.points`, without worker_hours. `num_seeds`
        differs between rows while a search runs, and after a failure.
    """
    known = results.points[["point", "source", *results.parameters]]
    return seed_means(results.history, results.objectives).merge(known, on="point", how="left")


def _read_search(folder: Path) -> dict[str, Any]:
    path = folder / "search.json"
    search = read_object(path, "the file is damaged; start the search again in another output_dir")
    if search is None:
        raise UserError(
            str(folder),
            "expected a search folder, found no search.json in it",
            "name a folder of `hbt-dist search`",
        )
    if search.get("format") != FORMAT:
        raise UserError(
            str(path),
            f"expected format {FORMAT}, got {search.get('format')!r}, "
            f"written by hbt-dist {search.get('hbt_dist', 'unknown')}",
            "use the version that wrote the folder",
        )
    if not isinstance(search.get("objectives"), dict):
        raise UserError(str(path), "has no objectives", "name a folder of `hbt-dist search`")
    return search


def _read_trials(
    folder: SearchFolder, objectives: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the records of the trials, and the lines of their histories by trial and step."""
    trials, history = [], []
    for trial in folder.trials():
        record = {**(trial.record() or {}), "trial": trial.name}
        rows = {
            line["step"]: {
                **{key: record[key] for key in ("trial", "point", "seed")},
                "step": line["step"],
                **{key: _number(line.get(key)) for key in ("seconds", "worker_seconds", "loss")},
                **_objectives(line, objectives, f"{trial.folder / 'history.jsonl'} line {number}"),
                "evaluation": line.get("evaluation"),
            }
            for number, line in enumerate(trial.history(), start=1)
        }
        trials.append(record)
        history += [rows[step] for step in sorted(rows)]
    return trials, history


def _objectives(line: dict[str, Any], objectives: list[str], location: str) -> dict[str, float]:
    for name in objectives:
        if name not in line or not isinstance(line[name], int | float | None):
            raise UserError(
                location,
                f"reports {line[name]!r} as {name!r}" if name in line else f"reports no {name!r}",
                f"every evaluation of the search reports {', '.join(objectives)} (a number, or null without "
                "a value); the folder is of another search or damaged",
            )
    return {name: _number(line[name]) for name in objectives}


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else math.nan


def _parameter_table(values: dict[int, dict[str, Any]], sources: dict[int, str | None]) -> pd.DataFrame:
    """Return point, source, and a column per parameter, which holds numbers, truth values or text."""
    points = sorted(values)
    rows = [_flat(values[point]) for point in points]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame({"point": points, "source": [sources.get(point) for point in points]})
    for name in names:
        table[name] = _column([row.get(name) for row in rows])
    return table


def _log_parameters(table: pd.DataFrame, space: Any) -> frozenset[str]:
    """Return the parameters drawn in the logarithm, and listed choices over orders of magnitude.

    The drawn values cannot decide it: a uniform draw that comes near zero spans orders of magnitude too.
    """
    names = set()
    for name, form in space.items() if isinstance(space, dict) else ():
        if name in table and pd.api.types.is_float_dtype(table[name].dtype):
            low, high = table[name].min(), table[name].max()
            listed = str(form).startswith("choice") and low > 0 and high / low >= LOG_RATIO
            if low > 0 and (listed or str(form).startswith("log_uniform")):
                names.add(name)
    return frozenset(names)


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        column = key if "." in key else f"run.{key}"  # no clash with the other columns of the tables
        if isinstance(value, dict) and value and all(_is_number(share) for share in value.values()):
            flat |= {f"{column}.{kind}": share for kind, share in value.items()}
        elif isinstance(value, dict | list):
            flat[column] = json.dumps(value, ensure_ascii=False, sort_keys=True)
        else:
            flat[column] = value
    return flat


def _column(values: list[Any]) -> pd.Series[Any]:
    known = [value for value in values if value is not None]
    if known and all(_is_number(value) for value in known):
        return pd.Series([_number(value) for value in values], dtype="float64")
    if known and all(isinstance(value, bool) for value in known):
        return pd.Series(values, dtype="boolean")
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pd.Series(texts, dtype="object")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _trial_table(
    trials: list[dict[str, Any]], history: pd.DataFrame, objectives: dict[str, str]
) -> pd.DataFrame:
    table = pd.DataFrame(
        {key: [trial[key] for trial in trials] for key in ("trial", "point", "seed", "status")}
    )
    by_trial = history.sort_values("step").groupby("trial")
    last = by_trial.tail(1).set_index("trial")
    table["steps"] = table["trial"].map(last["step"]).fillna(0).astype(int)
    table["evaluations"] = table["trial"].map(by_trial.size()).fillna(0).astype(int)
    for name in objectives:
        table[name] = table["trial"].map(last[name]).astype(float)
    table["workers"] = [_number(trial.get("workers")) for trial in trials]
    # While a trial runs, its history is newer than its trial.json.
    seconds = pd.DataFrame(
        {
            "record": [_number(trial.get("worker_seconds")) for trial in trials],
            "history": table["trial"].map(last["worker_seconds"]),
        }
    )
    table["worker_hours"] = seconds.max(axis=1).fillna(0.0) / 3600
    for name in ("started", "ended", "error"):
        texts = [None if trial.get(name) is None else str(trial[name]) for trial in trials]
        table[name] = pd.Series(texts, dtype="object")
    return table.sort_values(["point", "seed"], ignore_index=True)


def _point_table(history: pd.DataFrame, trials: pd.DataFrame, objectives: dict[str, str]) -> pd.DataFrame:
    means = seed_means(history, objectives)
    means = means.sort_values(["point", "num_seeds", "step"], kind="stable")
    points = means.groupby("point").tail(1).reset_index(drop=True)
    points["worker_hours"] = points["point"].map(trials.groupby("point")["worker_hours"].sum())
    return points
