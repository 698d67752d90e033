"""Compute everything that the report of a search shows, once; tables are plain DataFrames."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hbt_dist.analysis.pareto import best_points, knee_point, pareto_front
from hbt_dist.analysis.results import SearchResults, candidates
from hbt_dist.analysis.sensitivity import curve, importance
from hbt_dist.analysis.trials import cost, pair_difference
from hbt_dist.common.numbers import digits_of, plain, signed

SCHEMA = "hbt_dist.search_report"
SCHEMA_VERSION = 1
#: Mixtures that a person knows already: value of batches.alpha -> name.
_PLAIN_MIXTURES = {1.0: "monolingual batches only", 0.0: "cross-lingual batches only"}


@dataclass(frozen=True)
class Analysis:
    """The results of a search and what follows from them."""

    results: SearchResults
    candidates: pd.DataFrame  # every evaluated checkpoint, averaged over seeds
    trusted: pd.DataFrame  # the candidates with the most seeds
    front: pd.DataFrame  # the candidates that none dominates; rows keep their index in `candidates`
    knee: pd.Series[Any] | None  # None if no candidate has all objectives
    best: pd.DataFrame  # best candidate of each objective
    sensitivity: pd.DataFrame
    curves: pd.DataFrame  # `curve` of every parameter, with a first column `parameter`
    cost: pd.DataFrame
    difference: pd.DataFrame | None  # of the two trials to compare


def analyse(results: SearchResults, compare: tuple[str, str] | None = None) -> Analysis:
    """Analyse a search.

    Front, knee and best come from the candidates with the most seeds: a single lucky seed at a step that the
    other seeds have not reached must neither choose the run nor push candidates off the front. With
    successive halving such a seed is the rule: the lucky seeds continue.

    Args:
        compare: two trials whose pair matrices are compared.

    Raises:
        UserError: see `pair_difference`.
    """
    difference = pair_difference(results, *compare) if compare else None
    every = candidates(results)
    trusted = every[every["num_seeds"] == every["num_seeds"].max()]
    front = pareto_front(trusted, results.objectives)
    curves = [
        curve(results, name).astype({"value": object}).assign(parameter=name) for name in results.parameters
    ]
    columns = ["parameter", "objective", "value"]
    joined = pd.concat(curves) if curves else pd.DataFrame(columns=columns)
    return Analysis(
        results=results,
        candidates=every,
        trusted=trusted,
        front=front,
        knee=knee_point(front, results.objectives) if len(front) else None,
        best=best_points(trusted, results.objectives),
        sensitivity=importance(results),
        curves=joined[[*columns, *joined.columns.difference(columns, sort=False)]],
        cost=cost(results),
        difference=difference,
    )


def summary(analysis: Analysis) -> dict[str, Any]:
    """Return the findings as plain values: the content of summary.json without the names of files."""
    results, knee = analysis.results, analysis.knee
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "search": results.name,
        "folder": str(results.folder),
        "objectives": results.objectives,
        "trials": {str(k): int(v) for k, v in results.trials["status"].value_counts().items()},
        "num_points": len(results.points),
        "worker_hours": float(results.trials["worker_hours"].sum()),
        "knee": None if knee is None else describe_candidate(results, knee),
        "best": {row["objective"]: describe_candidate(results, row) for _, row in analysis.best.iterrows()},
        "front": [describe_candidate(results, row) for _, row in analysis.front.iterrows()],
        "problems": [],
    }


def describe_candidate(results: SearchResults, row: pd.Series[Any]) -> dict[str, Any]:
    """Return a row of the candidates as plain values; None for NaN."""
    point = int(row["point"])
    return {
        "point": point,
        "step": int(row["step"]),
        "num_seeds": int(row["num_seeds"]),
        "parameters": results.point_values[point],
        "objectives": {
            name: {
                "mean": _number_or_none(row[name]),
                "std": _number_or_none(row[f"{name}_std"]),
                "count": int(row[f"{name}_count"]),
            }
            for name in results.objectives
        },
    }


@dataclass(frozen=True)
class Choice:
    """A checkpoint that a person might take, and what it changes against the knee."""

    title: str
    candidate: pd.Series[Any]
    changes: Mapping[str, tuple[float, float]]  # objective -> mean and std of its change over common seeds


def choices(analysis: Analysis) -> list[Choice]:
    """Return the knee, the best checkpoint of each objective, and the compromise of each plain mixture."""
    results, knee, trusted = analysis.results, analysis.knee, analysis.trusted
    if knee is None:
        return []
    named = [("knee", knee)]
    named += [(f"best {objective_title(row['objective'])}", row) for _, row in analysis.best.iterrows()]
    shares = trusted.get("batches.alpha", pd.Series(dtype=float, index=trusted.index))
    for share, title in _PLAIN_MIXTURES.items():
        front = pareto_front(trusted[shares == share], results.objectives)
        named += [(title, knee_point(front, results.objectives))] if len(front) else []
    by_checkpoint: dict[tuple[int, int], list[tuple[str, pd.Series[Any]]]] = {}
    for title, row in named:
        by_checkpoint.setdefault((int(row["point"]), int(row["step"])), []).append((title, row))
    values: Any = results.history.set_index(["point", "step", "seed"]).sort_index()[[*results.objectives]]
    base = values.loc[next(iter(by_checkpoint))]
    taken = []
    for checkpoint, rows in by_checkpoint.items():
        change = values.loc[checkpoint] - base
        spread = {name: (change[name].mean(), change[name].std()) for name in results.objectives}
        taken.append(Choice(", ".join(title for title, _ in rows), rows[0][1], spread))
    return taken


def summary_text(document: dict[str, Any]) -> str:
    """Return the findings as lines for the terminal."""
    lines = [f"{document['search']}: {totals_text(document)}", f"front: {len(document['front'])} checkpoints"]
    if document["knee"] is not None:
        lines.append(f"knee: {candidate_text(document['knee'])}")
    lines += [
        f"best {objective_title(name)}: {candidate_text(candidate)}"
        for name, candidate in document["best"].items()
    ]
    lines += [f"note: {problem}" for problem in document["problems"]]
    return "\n".join(lines)


def totals_text(document: dict[str, Any]) -> str:
    """Return points, trials by status and worker hours in one phrase."""
    trials = ", ".join(f"{count} {status}" for status, count in document["trials"].items())
    return f"{document['num_points']} points, trials: {trials}; {document['worker_hours']:.2f} worker hours"


def candidate_text(candidate: dict[str, Any]) -> str:
    """Return a candidate with its parameters and objectives in one phrase."""
    objectives = ", ".join(
        f"{objective_title(name)} {objective_text(name, value['mean'], value['std'])}"
        for name, value in candidate["objectives"].items()
    )
    seeds = "1 seed" if candidate["num_seeds"] == 1 else f"{candidate['num_seeds']} seeds"
    return (
        f"point {candidate['point']} ({parameters_text(candidate['parameters'])}) after step "
        f"{candidate['step']}, {seeds}: {objectives}"
    )


def parameters_text(parameters: Mapping[str, Any]) -> str:
    """Return parameters with their values in one phrase."""
    return ", ".join(f"{key} = {value_text(value)}" for key, value in parameters.items())


def objective_title(name: str) -> str:
    """Return an objective's name for people: ``cross-lingual mAP``, ``rank distance``."""
    title = name.replace("crosslingual", "cross-lingual").replace("_", " ")
    return title if name == "rank_distance" else f"{title} mAP"


def change_text(name: str, mean: float, std: float) -> str:
    """Format the change of an objective, and its standard deviation over seeds if there is one."""
    spread = "" if math.isnan(std) else f" ± {plain(std, digits_of(name))}"
    return signed(mean, digits_of(name)) + spread


def objective_text(name: str, mean: float | None, std: float | None = None) -> str:
    """Format an objective's mean, and its standard deviation over seeds if there is one."""
    spread = "" if std is None else f" ± {plain(std, digits_of(name))}"
    return plain(mean, digits_of(name)) + spread


def value_text(value: Any) -> str:
    """Format a parameter's value; entries of a mapping without a value are left out."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {value_text(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def _number_or_none(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
