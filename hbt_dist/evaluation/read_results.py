"""Read evaluation folders: results.json alone, or with the per-question values that tests need."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.benchmarks.benchmark import benchmark_title
from hbt_dist.evaluation.shown import ShownEvaluation, evaluations_html

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "hbt_dist.evaluation"
SCHEMA_VERSION = 1
SETTINGS = ("monolingual", "crosslingual", "multilingual")
#: Folders of a run's evaluations, and of a trial's.
AFTER_TRAINING, BEFORE_TRAINING = ("end", "final"), ("start",)
KEY = ["question_id", "question_language", "candidate_language"]
#: Blocks of results.json, and the keys that every reader needs.
BLOCKS = {
    "benchmark": ("name", "variant", "fingerprint", "languages", "own_text_relevant"),
    "means": SETTINGS,
    "chance": SETTINGS,
    "pair_matrix": ("languages", "metrics"),
    "bias": (),
    "provenance": (),
}
_READ = [*KEY, "setting", "question_cluster", "rank_distance"]


def json_values(values: Any) -> Any:
    """Return plain JSON values, at every depth; NaN and infinity become None."""
    if isinstance(values, dict):
        return {str(key): json_values(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [json_values(value) for value in values]
    if isinstance(values, np.generic):
        return json_values(values.item())
    return None if isinstance(values, float) and not math.isfinite(values) else values


def rank_distance_of(results: Mapping[str, Any]) -> float | None:
    """Return the mean rank distance; None if no question has relevant candidates in two languages."""
    measured = results["bias"].get("rank_distance")
    return None if measured is None else measured["macro"]


def title_of(results: Mapping[str, Any]) -> str:
    """Return the benchmark's name for people: its label, else name and variant."""
    benchmark = results["benchmark"]
    label = benchmark.get("label") or results.get("provenance", {}).get("label")
    return str(label or benchmark_title(benchmark["name"], benchmark["variant"]))


def headline_figures(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the mAP of the three settings and the rank distance; None where the benchmark has no value."""
    figures: dict[str, float | None] = {
        setting: results["means"][setting]["macro"]["map"] for setting in SETTINGS
    }
    return {**figures, "rank_distance": rank_distance_of(results)}


def pairs_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return languages, and mAP and number of questions of each pair: rows question languages."""
    matrix = results["pair_matrix"]
    return {
        "languages": matrix["languages"],
        "map": matrix["metrics"]["map"],
        "num_questions": matrix["num_questions"],
    }


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation folder, read."""

    folder: Path
    results: dict[str, Any]
    rows: pd.DataFrame  # per_question.parquet without the one_target rows, the columns asked for

    @property
    def languages(self) -> list[str]:
        """In the order of the matrices."""
        return list(self.results["benchmark"]["languages"])

    def cells(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(L, L) mAP of the pair matrix, NaN where a cell is empty."""
        return np.array(self.results["pair_matrix"]["metrics"]["map"], np.float64)

    def pairs(self, metric: str = "map") -> pd.DataFrame:
        """Return a metric of every language pair, see `hbt_dist.evaluation.evaluation.Evaluation.pairs`."""
        return self.shown.frame(metric)

    @property
    def shown(self) -> ShownEvaluation:
        """What people see of it in a notebook."""
        results = self.results
        matrix, facts = results["pair_matrix"], results.get("by_language", {})
        return ShownEvaluation(
            title_of(results),
            matrix["languages"],
            matrix["metrics"],
            {setting: results["means"][setting]["macro"]["map"] for setting in SETTINGS},
            [facts.get(code, {}).get("seen") is False for code in matrix["languages"]],
            results["chance"],
        )

    def __repr__(self) -> str:
        return f"{self.folder}\n{self.shown.text()}"

    def _repr_html_(self) -> str:
        return evaluations_html({str(self.folder): self.shown})

    def values(self, setting: str, metric: str) -> pd.DataFrame:
        """Rows of a setting, or of "pair", which is monolingual and crosslingual together.

        Columns: KEY ("" for the candidate language of a pool), question_cluster, value; rows
        without a value are left out.
        """
        frame = self.rows
        frame = frame[frame.setting == ("multilingual" if setting == "multilingual" else "pair")]
        if setting in ("monolingual", "crosslingual"):
            same = frame.question_language == frame.candidate_language
            frame = frame[same if setting == "monolingual" else ~same]
        columns = [*KEY, "question_cluster"]
        if metric not in frame:
            return frame.head(0).reindex(columns=[*columns, "value"])
        chosen = frame[[*columns, metric]].rename(columns={metric: "value"}).dropna(subset="value")
        return chosen.fillna({"candidate_language": ""}).reset_index(drop=True)


def evaluation_folder(
    folder: str | Path, label: str | None = None, when: Collection[str] = AFTER_TRAINING
) -> Path:
    """Return `folder`, or an evaluation of a run if it is the folder of a run.

    Args:
        folder: of an evaluation, or of a run.
        label: the benchmark, where the run has several.
        when: moments of the evaluation.

    Raises:
        UserError: it is a run's folder with no such evaluation, or with several.
    """
    folder = Path(folder)
    if (folder / "results.json").is_file() or not (folder / "evaluation").is_dir():
        return folder
    all_evaluations = sorted(path.parent for path in folder.glob("evaluation/*/*/results.json"))
    evaluations = [path for path in all_evaluations if path.parent.name in when]
    chosen = [path for path in evaluations if label in (None, path.name)]
    if len(chosen) == 1:
        return chosen[0]
    model = "its trained model" if when is AFTER_TRAINING else "its start model"
    on = "" if label is None else f" on {label}"
    if evaluations:
        remedy = f"choose one with --benchmark: {', '.join(path.name for path in evaluations[:6])}"
    else:
        listed = ", ".join(map(str, all_evaluations[:6]))
        remedy = f"name one of {listed}" if listed else "evaluate the model of the run"
    problem = f"is the folder of a run: expected one evaluation of {model}{on}, got {len(chosen)}"
    raise UserError(str(folder), problem, remedy)


def read_results(folder: str | Path) -> dict[str, Any]:
    """Read the results.json of an evaluation folder.

    Raises:
        UserError: the folder is not an evaluation, or has another schema.
    """
    path = Path(folder) / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _no_evaluation(folder, error) from error
    if not isinstance(results, dict):
        raise UserError(str(path), "expected a JSON object: {...}", "evaluate the model again")
    schema = results.get("schema"), results.get("schema_version")
    if schema != (SCHEMA, SCHEMA_VERSION):
        raise UserError(
            str(path), f"expected schema {(SCHEMA, SCHEMA_VERSION)}, got {schema}", "evaluate the model again"
        )
    for block, keys in BLOCKS.items():
        content = results.get(block)
        if not isinstance(content, dict) or not content.keys() >= set(keys):
            listed = f" with {', '.join(keys)}" if keys else ""
            raise UserError(
                str(path), f"expected an object under {block!r}{listed}", "evaluate the model again"
            )
    return results


def read_evaluation(folder: str | Path, metrics: Sequence[str] = ("map",)) -> StoredEvaluation:
    """Read a folder of `write_evaluation`: results.json, and the requested metrics of every question.

    Raises:
        UserError: the folder is not an evaluation, or has another schema.
    """
    folder = Path(folder)
    results = read_results(folder)
    try:
        names = pq.read_schema(folder / "per_question.parquet").names
        columns = [name for name in [*_READ, *metrics] if name in names]
        table = pq.read_table(
            folder / "per_question.parquet",
            columns=list(dict.fromkeys(columns)),
            filters=[("setting", "!=", "one_target")],
        )
    except (OSError, ValueError) as error:
        raise _no_evaluation(folder, error) from error
    for key in ("setting", *KEY):
        table = table.set_column(table.schema.get_field_index(key), key, table[key].cast(pa.string()))
    return StoredEvaluation(folder, results, table.to_pandas())


def _no_evaluation(folder: str | Path, error: Exception) -> UserError:
    file = getattr(error, "filename", None)
    problem = f"has no {Path(file).name}" if file and isinstance(error, OSError) else first_line(error)
    if isinstance(error, FileNotFoundError) and not file:  # pyarrow names it in the text only
        problem = "has no per_question.parquet"
    return UserError(str(folder), f"is not an evaluation folder ({problem})", "name a folder of `evaluate`")
