"""A search folder as tables: trials, their evaluations, and points averaged over seeds.

    results = load_search("searches/alpha")
    results.points            # one row per point: parameters, mean, std and count over seeds
    results.history           # one row per evaluated checkpoint of a trial

Reads what is there: a search that still runs, and files that end in half a line because their writer was
killed. What was skipped stands in `problems`. Nothing but JSON is read, so neither Ray nor the models are
needed: a hundred trials with twenty evaluations each load in well under a second.

Columns of objectives carry the objective's name. In tables over seeds that is the mean; `NAME_std` (sample
standard deviation, NaN for one seed) and `NAME_count` stand beside it. Parameters carry their dotted key;
shares of a mixture have a column each (`batches.mixture.monolingual`), other structured values are JSON text.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from hbt_dist.common.errors import UserError
from hbt_dist.search.folder import FORMAT, Status

STATUSES: tuple[Status, ...] = get_args(Status)
#: Listed choices of a number that span at least this ratio are looked at in the logarithm.
LOG_RATIO = 100.0
_DIRECTIONS = ("max", "min")


@dataclass(frozen=True)
class SearchResults:
    """A search, read."""

    folder: Path
    search: dict[str, Any]  # search.json
    objectives: dict[str, str]  # name -> "max" | "min"
    parameters: tuple[str, ...]  # columns of the parameters in `points` and `trials`
    trials: pd.DataFrame  # one row per trial; objectives of its last evaluation
    history: pd.DataFrame  # one row per trial and evaluated step
    points: pd.DataFrame  # one row per evaluated point, at the step described in `load_search`
    point_values: dict[int, dict[str, Any]]  # point -> parameters as a run file takes them
    problems: list[str] = field(default_factory=list)  # what was skipped, one sentence each
    log_parameters: frozenset[str] = frozenset()  # numbers to look at in the logarithm

    @property
    def name(self) -> str:
        """The search's name."""
        return str(self.search.get("name") or self.folder.name)


def load_search(folder: str | Path) -> SearchResults:
    """Read the folder that `hbt-dist search` writes, also while it still writes.

    A point's row in `points` holds its seeds at one common step: of the steps that most of its seeds have
    evaluated, the latest. While all seeds of a point are evaluated at the same steps this is the last
    common evaluation; a seed that was stopped early sets the step for all, so that the spread is a spread
    of seeds and not of training lengths. Seeds without any evaluation do not count. Where a restarted trial
    evaluated a step twice, the later line holds.

    Raises:
        UserError: the folder is no search, or one of another format; no trial has been evaluated; an
            evaluation does not report an objective of the search.
    """
    folder = Path(folder)
    search = _read_search(folder)
    objectives: dict[str, str] = search["objectives"]
    problems: list[str] = []
    drawn = _read_points(folder / "points.jsonl", problems)
    trials, history = _read_trials(folder, list(objectives), problems)
    if not history:
        counts = Counter(trial["status"] for trial in trials)
        shown = ", ".join(f"{count} {status}" for status, count in counts.items()) or "none started"
        raise UserError(
            str(folder),
            f"holds no evaluated trial yet ({shown})",
            "wait for the first evaluation; each trial's error, if it failed, is in its trial.json",
        )
    values = {int(trial["point"]): trial["parameters"] for trial in trials}
    sources = {}
    for point, (parameters, source) in drawn.items():
        values[point], sources[point] = parameters, source
    parameter_table = _parameter_table(values, sources)
    history_table = pd.DataFrame(history)
    trial_table = _trial_table(trials, history_table, objectives)
    return SearchResults(
        folder=folder,
        search=search,
        objectives=objectives,
        parameters=tuple(parameter_table.columns[2:]),
        trials=trial_table.merge(parameter_table, on="point", how="left"),
        history=history_table,
        points=_point_table(history_table, trial_table, objectives).merge(
            parameter_table, on="point", how="left"
        ),
        point_values=values,
        problems=problems,
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


def _read_search(folder: Path) -> dict[str, Any]:
    path = folder / "search.json"
    try:
        search = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            str(folder), "is no search folder: it has no search.json", "name a folder of `hbt-dist search`"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            str(path), f"cannot be read: {error}", "it is half-written or damaged; start the search again"
        ) from None
    found = search.get("format") if isinstance(search, dict) else None
    if found != FORMAT:
        version = search.get("hbt_dist", "unknown") if isinstance(search, dict) else "unknown"
        raise UserError(
            str(path),
            f"has format {found!r}, written by hbt-dist {version}",
            f"this version reads format {FORMAT}; use the one that wrote the folder",
        )
    objectives = search.get("objectives")
    if (
        not isinstance(objectives, dict)
        or not objectives
        or any(direction not in _DIRECTIONS for direction in objectives.values())
    ):
        raise UserError(
            str(path), f"has objectives {objectives!r}", "expected at least one name with 'max' or 'min'"
        )
    return search


def _lines(path: Path, label: str, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with their line numbers; what is no object goes to `problems`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{label} cannot be read: {error.strerror}")
        return
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield number, row
        else:
            what = "half a line" if number == len(lines) else "no JSON object"
            problems.append(f"{label} line {number}: {what}, skipped")


def _read_points(path: Path, problems: list[str]) -> dict[int, tuple[dict[str, Any], str | None]]:
    points = {}
    for number, row in _lines(path, path.name, problems):
        if isinstance(row.get("point"), int) and isinstance(row.get("parameters"), dict):
            points[row["point"]] = (row["parameters"], row.get("source"))
        else:
            problems.append(f"{path.name} line {number}: no point with parameters, skipped")
    return points


def _read_trials(
    folder: Path, objectives: list[str], problems: list[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    trials, history = [], []
    root = folder / "trials"
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if not path.is_dir() or path.name.startswith("."):
            continue
        label = f"trials/{path.name}"
        trial = _read_trial(path, label, problems)
        if trial is None:
            continue
        rows: dict[int, dict[str, Any]] = {}
        for number, line in _lines(path / "history.jsonl", f"{label}/history.jsonl", problems):
            if not isinstance(line.get("step"), int):
                problems.append(f"{label}/history.jsonl line {number}: no step, skipped")
                continue
            rows[line["step"]] = {
                "trial": path.name,
                "point": trial["point"],
                "seed": trial["seed"],
                "step": line["step"],
                **{key: _number(line.get(key)) for key in ("seconds", "worker_seconds", "loss")},
                **_objectives(line, objectives, f"{path / 'history.jsonl'} line {number}"),
                "evaluation": line.get("evaluation"),
            }
        trials.append(trial)
        history += [rows[step] for step in sorted(rows)]
    return trials, history


def _read_trial(path: Path, label: str, problems: list[str]) -> dict[str, Any] | None:
    try:
        trial = json.loads((path / "trial.json").read_text("utf-8"))
    except FileNotFoundError:
        problems.append(f"{label}: no trial.json yet, skipped")
        return None
    except (OSError, ValueError):
        problems.append(f"{label}/trial.json: half-written or damaged, trial skipped")
        return None
    complete = (
        isinstance(trial, dict)
        and isinstance(trial.get("point"), int)
        and isinstance(trial.get("seed"), int)
        and isinstance(trial.get("parameters"), dict)
        and trial.get("status") in STATUSES
    )
    if not complete:
        problems.append(
            f"{label}/trial.json: without point, seed, parameters or a known status, trial skipped"
        )
        return None
    return {**trial, "trial": path.name}


def _objectives(line: dict[str, Any], objectives: list[str], place: str) -> dict[str, float]:
    values = {}
    for name in objectives:
        value = line.get(name)
        if name not in line or not (value is None or isinstance(value, int | float)):
            found = f"reports no {name!r}" if name not in line else f"reports {value!r} as {name!r}"
            raise UserError(
                place,
                found,
                f"every evaluation of the search reports {', '.join(objectives)} (a number, or null where "
                "there is none); the folder is of another search or damaged",
            )
        values[name] = _number(value)
    return values


def _number(value: Any) -> float:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else math.nan


def _parameter_table(values: dict[int, dict[str, Any]], sources: dict[int, str | None]) -> pd.DataFrame:
    """point, source, and a column per parameter; a column holds either numbers, truth values or text."""
    points = sorted(values)
    rows = [_flat(values[point]) for point in points]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = pd.DataFrame({"point": points, "source": [sources.get(point) for point in points]})
    for name in names:
        table[name] = _column([row.get(name) for row in rows])
    return table


def _log_parameters(table: pd.DataFrame, space: Any) -> frozenset[str]:
    """What the search drew in the logarithm, and listed choices over orders of magnitude.

    Drawn values themselves cannot tell: a uniform draw that comes near zero spans orders of magnitude too.
    """
    found = set()
    for name, form in space.items() if isinstance(space, dict) else ():
        if name in table and pd.api.types.is_float_dtype(table[name].dtype):
            low, high = table[name].min(), table[name].max()
            listed = str(form).startswith("choice") and low > 0 and high / low >= LOG_RATIO
            if low > 0 and (listed or str(form).startswith("log_uniform")):
                found.add(name)
    return frozenset(found)


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        column = key if "." in key else f"run.{key}"  # no clash with the tables' own columns
        if isinstance(value, dict) and value and all(_is_number(share) for share in value.values()):
            flat |= {f"{column}.{kind}": share for kind, share in value.items()}
        elif isinstance(value, dict | list):
            flat[column] = json.dumps(value, ensure_ascii=False, sort_keys=True)
        else:
            flat[column] = value
    return flat


def _column(values: list[Any]) -> pd.Series[Any]:
    there = [value for value in values if value is not None]
    if there and all(_is_number(value) for value in there):
        return pd.Series([_number(value) for value in values], dtype="float64")
    if there and all(isinstance(value, bool) for value in there):
        return pd.Series(values, dtype="boolean")
    return pd.Series([value if value is None else _text(value) for value in values], dtype="object")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _trial_table(
    trials: list[dict[str, Any]], history: pd.DataFrame, objectives: dict[str, str]
) -> pd.DataFrame:
    last = history.sort_values("step").groupby("trial").tail(1).set_index("trial")
    counts = history.groupby("trial").size()
    rows = []
    for trial in trials:
        name = trial["trial"]
        evaluated = last.loc[name] if name in last.index else None
        seconds = [_number(trial.get("worker_seconds"))]
        if evaluated is not None:
            seconds.append(float(evaluated["worker_seconds"]))  # trial.json is older while a trial runs
        seconds = [one for one in seconds if not math.isnan(one)]
        rows.append(
            {
                "trial": name,
                "point": trial["point"],
                "seed": trial["seed"],
                "status": trial["status"],
                "steps": 0 if evaluated is None else int(evaluated["step"]),
                "evaluations": int(counts.get(name, 0)),
                **{key: math.nan if evaluated is None else float(evaluated[key]) for key in objectives},
                "workers": trial.get("workers"),
                "worker_hours": max(seconds, default=0.0) / 3600,
            }
        )
    table = pd.DataFrame(rows)
    for name in ("started", "ended", "error"):
        table[name] = pd.Series([_text_or_none(trial.get(name)) for trial in trials], dtype="object")
    table["workers"] = pd.to_numeric(table["workers"], errors="coerce")
    return table.sort_values(["point", "seed"], ignore_index=True)


def _point_table(history: pd.DataFrame, trials: pd.DataFrame, objectives: dict[str, str]) -> pd.DataFrame:
    means = seed_means(history, objectives)
    means = means.sort_values(["point", "num_seeds", "step"], kind="stable")
    points = means.groupby("point").tail(1).reset_index(drop=True)
    hours = trials.groupby("point")["worker_hours"].sum()
    points["worker_hours"] = points["point"].map(hours)
    return points
