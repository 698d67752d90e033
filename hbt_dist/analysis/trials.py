"""Sum the cost of trials, and compare the language pairs of two trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from hbt_dist.analysis.results import SearchResults
from hbt_dist.common.errors import UserError
from hbt_dist.search.folder import read_object


def cost(results: SearchResults) -> pd.DataFrame:
    """Return the worker hours of every trial, and of the whole search.

    A worker hour is one training process for an hour, including restarts and evaluations.

    Returns:
        one row per trial: trial, point, seed, status, steps, workers, worker_hours; the last row,
        "total", holds the sums of steps and worker hours.
    """
    table = results.trials[["trial", "point", "seed", "status", "steps", "workers", "worker_hours"]]
    table = table.astype({"point": "Int64", "seed": "Int64", "workers": "Float64"})
    sums = {name: [table[name].sum()] for name in ("steps", "worker_hours")}
    total = pd.DataFrame({"trial": ["total"], **sums}).reindex(columns=table.columns)
    return pd.concat([table, total.astype(table.dtypes.to_dict())], ignore_index=True)


def pair_difference(results: SearchResults, trial_a: str, trial_b: str) -> pd.DataFrame:
    """Return the mAP of trial B minus trial A for every language pair, each at its last existing evaluation.

    Returns:
        (L, L): rows question languages, columns candidate languages, candidates of that language only; NaN
        for a pair without questions. `attrs` holds trial_a, step_a, trial_b, step_b, and unseen: the
        languages without training data.

    Raises:
        UserError: an unknown trial, one without a readable evaluation, or different languages.
    """
    (step_a, a), (step_b, b) = (_last_matrix(results, trial) for trial in (trial_a, trial_b))
    if list(a.index) != list(b.index) or list(a.columns) != list(b.columns):
        raise UserError(
            f"trials {trial_a} and {trial_b}",
            f"expected equal languages, got {', '.join(a.index)} and {', '.join(b.index)}",
            "compare trials of one search",
        )
    difference = b - a
    difference.attrs = {"trial_a": trial_a, "step_a": step_a, "trial_b": trial_b, "step_b": step_b, **b.attrs}
    return difference


def _last_matrix(results: SearchResults, trial: str) -> tuple[int, pd.DataFrame]:
    known = results.trials["trial"].tolist()
    if trial not in known:
        names = ", ".join(known[:8]) + (", ..." if len(known) > 8 else "")
        raise UserError(str(results.folder), f"has no trial {trial!r}", f"its trials are {names}")
    rows = results.history[results.history["trial"] == trial].sort_values("step", ascending=False)
    for step, evaluation in zip(rows["step"], rows["evaluation"], strict=True):
        if isinstance(evaluation, str):
            path = results.folder / "trials" / trial / evaluation / "pair_matrix.csv"
            if path.is_file():
                return int(step), _read_matrix(path)
    raise UserError(
        str(results.folder / "trials" / trial),
        "has no evaluation with a pair_matrix.csv",
        "choose an evaluated trial whose evaluations are still in the folder",
    )


def _read_matrix(path: Path) -> pd.DataFrame:
    try:
        # Language codes such as "nan" (Min Nan) and "na" are names, not missing values.
        table = pd.read_csv(path, index_col=0, dtype=str, keep_default_na=False)
        values = table.replace("", "nan").astype(np.float64)
    except (OSError, ValueError) as error:
        raise UserError(
            str(path), f"is not a pair matrix: {error}", "it is half-written or damaged; evaluate again"
        ) from None
    values.index.name = "question_language"
    values.columns.name = "candidate_language"
    facts = (read_object(path.with_name("results.json"), "evaluate again") or {}).get("by_language", {})
    values.attrs["unseen"] = [code for code, row in facts.items() if row.get("seen") is False]
    return values
