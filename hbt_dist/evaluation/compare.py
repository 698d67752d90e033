"""Compare evaluations: two systems or more, one folder or one per training seed each.

    comparison = compare([["runs/hybrid"]], baseline=["runs/start"])     # folders of write_evaluation
    comparison = compare([[seed 1, seed 2, ...], ...], baseline=[seed 1, seed 2, ...])

For each system against the baseline and each setting: means, paired randomisation and bootstrap over question
ids (or paragraphs), effect size, Holm's correction over all tests that are reported together; the change of
every pair cell and its test, step-down maxT over the cells; whether the cross-lingual gain grows with the
distance of the languages; and the figures that papers printed for the benchmark.

Per-question values of several seeds are averaged before the paired test, and a Welch test over the seeds'
means stands beside it.
"""

from __future__ import annotations

import csv
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hbt_dist.errors import UserError
from hbt_dist.evaluation.published import published_means
from hbt_dist.evaluation.results import SCHEMA, SCHEMA_VERSION
from hbt_dist.evaluation.significance import (
    compare_paired,
    compare_seeds,
    holm,
    step_down_by_column,
)
from hbt_dist.evaluation.typology import DISTANCES, distance_effect, group_contrast

MEASURES = (
    ("monolingual", "map"),
    ("crosslingual", "map"),
    ("multilingual", "map"),
    ("multilingual", "rank_distance"),
)
KEY = ["question_id", "question_language", "candidate_language"]


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation folder, read."""

    folder: Path
    results: dict[str, Any]
    rows: pd.DataFrame  # per_question.parquet

    @property
    def languages(self) -> list[str]:
        """In the order of the matrices."""
        return list(self.results["benchmark"]["languages"])

    def cells(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(L, L) mAP of the pair matrix, NaN where a cell is empty."""
        return np.array(self.results["pair_matrix"]["metrics"]["map"], np.float64)

    def values(self, setting: str, metric: str) -> pd.DataFrame:
        """Rows of a setting, or of "pair", which is monolingual and crosslingual together.

        Columns: KEY, question_cluster, value; rows without a value are left out.
        """
        frame = self.rows
        frame = frame[frame.setting == ("multilingual" if setting == "multilingual" else "pair")]
        if setting in ("monolingual", "crosslingual"):
            same = frame.question_language.astype(str) == frame.candidate_language.astype(str)
            frame = frame[same if setting == "monolingual" else ~same]
        if metric not in frame:
            return pd.DataFrame(columns=[*KEY, "question_cluster", "value"])
        chosen = frame[[*KEY, "question_cluster", metric]].rename(columns={metric: "value"})
        return chosen.dropna(subset="value")


def read_evaluation(folder: str | Path) -> StoredEvaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        UserError: the folder is no evaluation, or one of another schema.
    """
    folder = Path(folder)
    path = folder / "results.json"
    try:
        results = json.loads(path.read_text("utf-8"))
        rows = pq.read_table(folder / "per_question.parquet").to_pandas()
    except (OSError, ValueError) as error:
        raise UserError(
            str(folder), f"is no evaluation folder ({error})", "name a folder of `evaluate`"
        ) from error
    found = results.get("schema"), results.get("schema_version")
    if found != (SCHEMA, SCHEMA_VERSION):
        raise UserError(str(path), f"has schema {found}", f"expected {(SCHEMA, SCHEMA_VERSION)}")
    return StoredEvaluation(folder, results, rows)


def compare(
    systems: Sequence[Sequence[str | Path]],
    baseline: Sequence[str | Path],
    *,
    names: Sequence[str] | None = None,
    cluster: str = "question",
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare systems with a baseline.

    Args:
        systems: folders of each system, one per training seed.
        baseline: folders of the baseline.
        names: of the baseline and of each system; by default the ends of their first folders' paths, as long
            as it takes to tell them apart.
        cluster: "question" resamples question ids, "paragraph" whole paragraphs (wider intervals).
        confidence: of the intervals.

    Returns:
        the document that `write_comparison` writes; plain values.

    Raises:
        UserError: folders of different benchmarks, or of none.
    """
    groups = [[read_evaluation(folder) for folder in folders] for folders in (baseline, *systems)]
    names = list(names or _short_names([group[0].folder for group in groups]))
    _check_same_benchmark([one for group in groups for one in group])
    tests = [
        {"system": names[i], "baseline": names[0], **row}
        for i in range(1, len(groups))
        for row in _tests(groups[0], groups[i], cluster, confidence)
    ]
    for row, p in zip(tests, holm([row["p_randomisation"] for row in tests]), strict=True):
        row["p_holm"] = p
    first = groups[0][0]
    benchmark = first.results["benchmark"]
    return {
        "schema": "hbt_dist.comparison",
        "schema_version": 1,
        "benchmark": {key: benchmark[key] for key in ("name", "variant", "fingerprint", "languages")},
        "resampled": cluster,
        "confidence": confidence,
        "folders": {
            name: [str(one.folder) for one in group] for name, group in zip(names, groups, strict=True)
        },
        "tests": tests,
        "cell_gain": {
            names[i]: _nones(_mean_cells(groups[i]) - _mean_cells(groups[0])) for i in range(1, len(groups))
        },
        "cell_p": {
            names[i]: _nones(_cell_p(groups[0], groups[i], first.languages, cluster))
            for i in range(1, len(groups))
        },
        "typology": {
            names[i]: _typology(_mean_cells(groups[i]) - _mean_cells(groups[0]), first.languages)
            for i in range(1, len(groups))
        },
        "published": published_means(benchmark["name"]).to_dict(orient="records"),
    }


def _short_names(folders: list[Path]) -> list[str]:
    """The ends of the paths, as long as needed to differ; numbered where whole paths are equal."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(len(one) for one in parts)):
        names = ["/".join(one[-length:]) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {folder}" for i, folder in enumerate(folders)]


def _check_same_benchmark(evaluations: list[StoredEvaluation]) -> None:
    first = evaluations[0]
    for other in evaluations[1:]:
        a, b = first.results["benchmark"], other.results["benchmark"]
        if a["fingerprint"] != b["fingerprint"]:
            raise UserError(
                str(other.folder),
                f"was made on {b['name']} ({b['variant']}), fingerprint {b['fingerprint'][:12]}",
                f"{first.folder} on {a['name']} ({a['variant']}), fingerprint {a['fingerprint'][:12]}; "
                "evaluate both on the same version, variant and languages",
            )


def _tests(
    baseline: list[StoredEvaluation], system: list[StoredEvaluation], cluster: str, confidence: float
) -> list[dict[str, Any]]:
    rows = []
    unit = "question_id" if cluster == "question" else "question_cluster"
    for setting, metric in MEASURES:
        a, b = (_seed_mean(group, setting, metric) for group in (baseline, system))
        joined = a.merge(b, on=[*KEY, "question_cluster"], suffixes=("_a", "_b"))
        units = joined[unit].astype(str).to_numpy(dtype=object).astype(str)
        if len(np.unique(units)) < 2:
            continue
        found = compare_paired(
            joined.value_a.to_numpy(), joined.value_b.to_numpy(), units, confidence=confidence
        )
        row: dict[str, Any] = {
            "setting": setting,
            "metric": metric,
            "macro_baseline": _macro(baseline, setting, metric),
            "macro_system": _macro(system, setting, metric),
            **asdict(found),
        }
        if min(len(baseline), len(system)) > 1:
            old, new = ([_one_macro(one, setting, metric) for one in group] for group in (baseline, system))
            keys = ("difference", "low", "high", "p")
            row["seeds"] = dict(zip(keys, compare_seeds(old, new, confidence), strict=True))
        rows.append(row)
    return rows


def _cell_p(
    baseline: list[StoredEvaluation], system: list[StoredEvaluation], languages: list[str], cluster: str
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(L, L) p of each pair cell's change, corrected for all cells; NaN where a cell is empty."""
    a, b = (_seed_mean(group, "pair", "map") for group in (baseline, system))
    joined = a.merge(b, on=[*KEY, "question_cluster"], suffixes=("_a", "_b"))
    unit = "question_id" if cluster == "question" else "question_cluster"
    size, place = len(languages), {code: i for i, code in enumerate(languages)}
    cells = joined.question_language.map(place) * size + joined.candidate_language.map(place)
    units, names = pd.factorize(joined[unit])
    flat = units * size**2 + cells.to_numpy(np.int64)
    length = len(names) * size**2
    counts = np.bincount(flat, minlength=length)
    sums = np.bincount(flat, weights=joined.value_b - joined.value_a, minlength=length)
    difference = np.divide(sums, counts, out=np.full(length, np.nan), where=counts > 0).reshape(-1, size**2)
    tested = ~np.isnan(difference).all(axis=0)
    found = np.full(size**2, np.nan)
    found[tested] = step_down_by_column(difference[:, tested])
    return found.reshape(size, size)


def _seed_mean(group: list[StoredEvaluation], setting: str, metric: str) -> pd.DataFrame:
    frames = [one.values(setting, metric) for one in group]
    for frame in frames:
        for key in KEY:
            frame[key] = frame[key].astype(str)
    if len(frames) == 1:
        return frames[0]
    both = pd.concat(frames, ignore_index=True)
    # Rows of the pool have no candidate language: they must not be dropped.
    return both.groupby([*KEY, "question_cluster"], sort=False, dropna=False)["value"].mean().reset_index()


def _one_macro(one: StoredEvaluation, setting: str, metric: str) -> float:
    if metric == "rank_distance":
        return float(one.results["bias"]["rank_distance"]["macro"])
    value = one.results["means"][setting]["macro"][metric]
    return math.nan if value is None else float(value)


def _macro(group: list[StoredEvaluation], setting: str, metric: str) -> float:
    return float(np.mean([_one_macro(one, setting, metric) for one in group]))


def _mean_cells(group: list[StoredEvaluation]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(np.mean([one.cells() for one in group], axis=0))


def _typology(gain: np.ndarray[Any, np.dtype[np.float64]], languages: list[str]) -> dict[str, Any]:
    """Gain against each distance (Holm over the distances), and Indo-European against Uralic."""
    effects = [asdict(distance_effect(gain, languages, source)) for source in DISTANCES]
    tested = [effect for effect in effects if not math.isnan(effect["p_permutation"])]
    for effect, p in zip(tested, holm([effect["p_permutation"] for effect in tested]), strict=True):
        effect["p_holm"] = p
    off_diagonal = np.where(np.eye(len(gain), dtype=bool), np.nan, gain)
    there = ~np.isnan(off_diagonal).all(axis=1)
    asking = np.full(len(gain), np.nan)
    asking[there] = np.nanmean(off_diagonal[there], axis=1)
    contrast = asdict(group_contrast(asking, languages))
    return {"distances": [_plain(effect) for effect in effects], "families": _plain(contrast)}


def _plain(values: Any) -> Any:
    """The same with None for NaN and infinity, at every depth."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _nones(matrix: np.ndarray[Any, np.dtype[np.float64]]) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row] for row in matrix.tolist()]


def comparison_text(document: dict[str, Any]) -> str:
    """The comparison as lines for the terminal."""
    benchmark = document["benchmark"]
    lines = [
        f"{benchmark['name']} ({benchmark['variant']}), {len(benchmark['languages'])} languages; "
        f"{document['confidence']:.0%} intervals, resampling {document['resampled']}s",
        "baseline, system: mean over language cells; change, interval, d: mean over questions",
        f"{'':<28}{'baseline':>10}{'system':>10}{'change':>10}  {'interval':<30}{'p (Holm)':>10}{'d':>7}",
    ]
    for row in document["tests"]:
        digits = 1 if row["metric"] == "rank_distance" else 4
        a, b = row["macro_baseline"], row["macro_system"]
        interval = f"[{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]"
        name = f"{row['system']}: {row['setting']} {row['metric'].replace('_', ' ')}"
        lines.append(
            f"{name:<28}{a:>10.{digits}f}{b:>10.{digits}f}{row['difference']:>+10.{digits}f}  {interval:<30}"
            f"{row['p_holm']:>10.4f}{row['effect_size']:>+7.2f}"
        )
    for system, part in document["typology"].items():
        lines += [f"{system}, {effect['source']}: {effect['verdict']}" for effect in part["distances"]]
        families = part["families"]
        lines.append(f"{system}, {families['group_a']} against {families['group_b']}: {families['verdict']}")
    lines += _published_lines(document["published"])
    return "\n".join(lines)


def _published_lines(rows: list[dict[str, Any]]) -> list[str]:
    wanted = [row for row in rows if row["metric"] in ("map", "rank_distance") and row["value"] != ""]
    if not wanted:
        return []
    lines = ["published (mean over languages; all = over questions):"]
    for row in wanted:
        value = f"{row['value']:.1f}" if row["metric"] == "rank_distance" else f"{row['value']:.4f}"
        lines.append(
            f"  {row['model']:<12} {row['sampling']:<14} {row['setting']:<13} {row['metric']:<14}{value:>9}"
            f"  ({row['language']})"
        )
    return lines


def write_comparison(document: dict[str, Any], out_dir: str | Path) -> Path:
    """Write comparison.json, comparison.csv (one row per test) and comparison.txt, each in one step.

    Raises:
        UserError: the folder cannot be written.
    """
    out = Path(out_dir)
    columns = [key for key in document["tests"][0] if key != "seeds"] if document["tests"] else []
    try:
        out.mkdir(parents=True, exist_ok=True)
        _put(out / "comparison.txt", comparison_text(document) + "\n")
        with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(document["tests"])
            file.seek(0)
            _put(out / "comparison.csv", file.read())
        plain = _plain(document)
        _put(out / "comparison.json", json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    except OSError as error:
        raise UserError(
            str(out), f"cannot be written: {error.strerror}", "name a folder you can write"
        ) from error
    return out


def _put(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def comparison_json(document: dict[str, Any]) -> str:
    """The comparison as comparison.json has it, in one line."""
    return json.dumps(_plain(document), ensure_ascii=False, allow_nan=False)
