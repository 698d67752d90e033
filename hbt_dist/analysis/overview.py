"""Everything that a report of a search shows, computed once; plain DataFrames inside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from hbt_dist.analysis.pareto import best_points, candidates, knee_point, pareto_front
from hbt_dist.analysis.search_results import SearchResults
from hbt_dist.analysis.sensitivity import curve, importance
from hbt_dist.analysis.trials import cost, pair_difference

SCHEMA = "hbt_dist.search_report"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Analysis:
    """A search and what follows from it."""

    results: SearchResults
    candidates: pd.DataFrame  # every evaluated checkpoint, averaged over seeds
    front: pd.DataFrame  # the candidates that none dominates; rows keep their index in `candidates`
    knee: pd.Series[Any] | None  # None: no candidate has all objectives
    best: pd.DataFrame  # best candidate of each objective
    sensitivity: pd.DataFrame
    curves: pd.DataFrame  # `curve` of every parameter, with a first column `parameter`
    cost: pd.DataFrame
    difference: pd.DataFrame | None  # of the two trials that were asked for

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every pair of objectives."""
        return list(combinations(self.results.objectives, 2))


def analyse(results: SearchResults, compare: tuple[str, str] | None = None) -> Analysis:
    """Analyse a search.

    Front, knee and best are taken among the candidates that rest on the most seeds: a single lucky seed at a
    step that the others have not reached shall neither choose the run nor push others off the front. With
    successive halving such a seed is the rule: those that go on are those that were lucky.

    Args:
        compare: two trials whose pair matrices are compared.

    Raises:
        UserError: see `pair_difference`.
    """
    difference = pair_difference(results, *compare) if compare else None
    every = candidates(results)
    trusted = every[every["num_seeds"] == every["num_seeds"].max()]
    front = pareto_front(trusted, results.objectives)
    curves = [curve(results, name).assign(parameter=name) for name in results.parameters]
    columns = ["parameter", "objective", "value"]
    joined = pd.concat([one.astype({"value": object}) for one in curves]) if curves else pd.DataFrame()
    return Analysis(
        results=results,
        candidates=every,
        front=front,
        knee=knee_point(front, results.objectives) if len(front) else None,
        best=best_points(trusted, results.objectives),
        sensitivity=importance(results),
        curves=joined.reindex(columns=[*columns, *(c for c in joined.columns if c not in columns)]),
        cost=cost(results),
        difference=difference,
    )


def summary(analysis: Analysis) -> dict[str, Any]:
    """The report's findings as plain values: what summary.json holds, less the names of files."""
    results = analysis.results
    knee = analysis.knee
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "search": results.name,
        "folder": str(results.folder),
        "objectives": results.objectives,
        "trials": {str(k): int(v) for k, v in results.trials["status"].value_counts().items()},
        "num_points": len(results.points),
        "worker_hours": float(results.trials["worker_hours"].sum()),
        "knee": None if knee is None else candidate(results, knee),
        "best": {row["objective"]: candidate(results, row) for _, row in analysis.best.iterrows()},
        "front": [candidate(results, row) for _, row in analysis.front.iterrows()],
        "problems": results.problems,
    }


def candidate(results: SearchResults, row: pd.Series[Any]) -> dict[str, Any]:
    """A row of the candidates as plain values."""
    point = int(row["point"])
    return {
        "point": point,
        "step": int(row["step"]),
        "num_seeds": int(row["num_seeds"]),
        "parameters": results.point_values[point],
        "objectives": {
            name: {
                "mean": plain(row[name]),
                "std": plain(row[f"{name}_std"]),
                "count": int(row[f"{name}_count"]),
            }
            for name in results.objectives
        },
    }


def summary_text(document: dict[str, Any]) -> str:
    """The findings as lines for the terminal."""
    trials = ", ".join(f"{count} {status}" for status, count in document["trials"].items())
    lines = [
        f"{document['search']}: {document['num_points']} points, trials: {trials}; "
        f"{document['worker_hours']:.2f} worker hours",
        f"front: {len(document['front'])} checkpoints",
    ]
    if document["knee"] is not None:
        lines.append(f"knee: {_line(document['knee'])}")
    lines += [f"best {name}: {_line(found)}" for name, found in document["best"].items()]
    lines += [f"note: {problem}" for problem in document["problems"]]
    return "\n".join(lines)


def _line(found: dict[str, Any]) -> str:
    values = []
    for name, value in found["objectives"].items():
        values.append(f"{name.replace('_', ' ')} {with_spread(value)}")
    parameters = ", ".join(f"{key}={shown(value)}" for key, value in found["parameters"].items())
    seeds = "1 seed" if found["num_seeds"] == 1 else f"{found['num_seeds']} seeds"
    return f"point {found['point']} ({parameters}) after step {found['step']}, {seeds}: {', '.join(values)}"


def number(value: float | None) -> str:
    """A number with four significant digits, "-" where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def with_spread(value: dict[str, Any]) -> str:
    """Mean ± standard deviation over seeds."""
    spread = "" if value["std"] is None else f" ± {value['std']:.2g}"
    return number(value["mean"]) + spread


def shown(value: Any) -> str:
    """A parameter's value for people."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(item)}" for key, item in value.items()) + "}"
    return str(value)


def plain(value: Any) -> Any:
    """A table's cell as a JSON value: NaN, NA and infinity become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value
