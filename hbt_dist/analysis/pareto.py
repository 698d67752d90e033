"""Compute the trade-off between objectives: Pareto front, knee point, best rows.

    front = pareto_front(candidates(results), results.objectives)
    knee = knee_point(front, results.objectives)

Every function takes and returns plain DataFrames; `objectives` maps column names to "max" or "min". Rows
without a value of an objective (NaN) are never on the front. The front is exact and takes O(n * front)
comparisons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError

Float64 = NDArray[np.float64]
_SIGNS = {"max": -1.0, "min": 1.0}


def pareto_front(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the rows that no row dominates, in their order and with their index.

    A row dominates another if it is at least as good in every objective and better in one; equal rows do
    not dominate each other, so all of them stay.

    Args:
        frame: any rows with a column per objective.
        objectives: name -> "max" or "min".

    Raises:
        UserError: no objective, an unknown column, or a direction that is neither.
    """
    losses = _losses(frame, objectives)
    complete = np.flatnonzero(~np.isnan(losses).any(axis=1))
    front = complete[_non_dominated(losses[complete])]
    return frame.iloc[np.sort(front)]


def knee_point(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.Series[Any]:
    """Return the row of the front nearest to the ideal point: the compromise without further preferences.

    Each objective is scaled over the front: 0 is its best value there, 1 its worst; the knee has the
    smallest Euclidean distance to (0, ..., 0). This is the compromise solution (p = 2) of Yu (Management
    Science 19(8), 1973) and Zeleny (1973). On a front that bulges it is near the largest bulge (Das,
    Structural Optimization 18, 1999); unlike that definition it also has an answer on straight, hollow and
    one-objective fronts. Ties: the row with the smaller largest loss, then the first row.

    Args:
        frame: any rows with a column per objective; the front is taken from them.

    Raises:
        UserError: as `pareto_front`, or no row has all objectives.
    """
    front = pareto_front(frame, objectives)
    if front.empty:
        raise UserError("knee point", "no row has a value of every objective", ", ".join(objectives))
    losses = _losses(front, objectives)
    low, span = losses.min(axis=0), np.ptp(losses, axis=0)
    scaled = np.divide(losses - low, span, out=np.zeros_like(losses), where=span > 0)
    distance = np.sqrt((scaled**2).sum(axis=1))
    order = np.lexsort((scaled.max(axis=1), np.round(distance, 12)))
    return front.iloc[int(order[0])]


def best_points(frame: pd.DataFrame, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the best row of each objective.

    Returns:
        one row per objective that has a value: `objective` first, then the columns of `frame`; of equal rows
        the first.

    Raises:
        UserError: as `pareto_front`.
    """
    losses = _losses(frame, objectives)
    rows = {
        name: int(np.nanargmin(column))
        for name, column in zip(objectives, losses.T, strict=True)
        if not np.isnan(column).all()
    }
    best = frame.iloc[list(rows.values())].copy()
    best.insert(0, "objective", list(rows))
    return best


def _losses(frame: pd.DataFrame, objectives: Mapping[str, str]) -> Float64:
    """Return (n, m) values where less is better; NaN for missing and infinite values."""
    if not objectives:
        raise UserError("objectives", "expected at least one, got none", "name an objective")
    for name, direction in objectives.items():
        if direction not in _SIGNS:
            raise UserError(f"objective {name!r}", f"expected max or min, got {direction!r}")
        if name not in frame:
            known = ", ".join(str(column) for column in frame.columns)
            raise UserError(f"objective {name!r}", "is not a column of the table", f"columns: {known}")
    columns = [
        _SIGNS[direction] * frame[name].to_numpy(np.float64, na_value=np.nan)
        for name, direction in objectives.items()
    ]
    losses = np.column_stack(columns)
    losses[~np.isfinite(losses)] = np.nan
    return losses


def _non_dominated(losses: Float64) -> NDArray[np.int64]:
    """Return indices of the rows that no row dominates; only a lexicographically smaller row can dominate."""
    front: list[int] = []
    for i in np.lexsort(losses.T[::-1]):
        better = losses[front]
        dominated = (better <= losses[i]).all(axis=1) & (better < losses[i]).any(axis=1)
        if not dominated.any():
            front.append(int(i))
    return np.array(front, np.int64)
