"""Compare evaluations: two systems or more, one folder or one per training seed each.

    comparison = compare([["runs/hybrid"]], baseline=["runs/start"])     # folders of write_evaluation
    comparison = compare([[seed 1, seed 2, ...], ...], baseline=[seed 1, seed 2, ...])

For each system against the baseline and each setting: means over cells, their difference with paired
randomisation and bootstrap over question ids (or paragraphs), effect size, Holm's correction over all tests
that are reported together; the change of every pair cell and its test, step-down maxT over the cells; whether
the cross-lingual gain grows with the distance of the languages and differs between families; and the figures
that papers printed for the benchmark in the same languages and, if they state it, the same candidate text.

Several seeds are paired, first with first: their per-question values are averaged before the test over
questions. A paired t test over the seeds, with a separate Holm correction, is reported next to it. Where a
question's own text is among its candidates, the monolingual cells are *trivial* and not tested.

Holds the baseline and one system at a time: per row and seed about 40 bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_write, explained_write, write_json
from hbt_dist.comparison.families import family_differences, family_gains, seed_test
from hbt_dist.comparison.gains import PairedRows
from hbt_dist.comparison.published import published_means
from hbt_dist.comparison.significance import compare_units, holm, step_down_by_column
from hbt_dist.comparison.text import comparison_text
from hbt_dist.comparison.typology import distance_effects
from hbt_dist.evaluation.matrix_rows import Float64
from hbt_dist.evaluation.read_results import (
    AFTER_TRAINING,
    BEFORE_TRAINING,
    SETTINGS,
    StoredEvaluation,
    evaluation_folder,
    json_values,
    rank_distance_of,
    read_evaluation,
    title_of,
)

MEASURES = (*((setting, "map") for setting in SETTINGS), ("multilingual", "rank_distance"))
#: What the field reports on a benchmark, where that is not mAP.
_MEASURES_OF = {
    "miracl": (("monolingual", "ndcg@10"), ("monolingual", "recall@100"), *MEASURES),
    "beir": (("monolingual", "ndcg@10"), ("monolingual", "recall@100"), *MEASURES),
}
_Group = list[StoredEvaluation]


def measures_of(benchmark: str) -> tuple[tuple[str, str], ...]:
    """Return (setting, metric) of the tests on a benchmark; first comes what the field reports."""
    return _MEASURES_OF.get(benchmark, MEASURES)


def compare(
    systems: Sequence[Sequence[str | Path]],
    baseline: Sequence[str | Path],
    *,
    benchmark: str | None = None,
    names: Sequence[str] | None = None,
    seeds: Sequence[Sequence[object]] | None = None,
    cluster: str = "question",
    confidence: float = 0.95,
) -> dict[str, Any]:
    """Compare systems with a baseline.

    Args:
        systems: folders of each system, one per training seed: of an evaluation, or of a run, for the
            evaluation of its trained model.
        baseline: folders of the baseline.
        benchmark: label of the evaluations, for runs with several.
        names: of the baseline and of each system; by default those of the runs, or the parts of the paths
            that differ.
        seeds: seeds of the baseline's folders and of each system's; common seeds are compared. By default the
            folders are in the same order of seeds.
        cluster: "question" resamples question ids, "paragraph" whole paragraphs (wider intervals).
        confidence: of the intervals.

    Returns:
        the document that `write_comparison` writes; plain values.

    Raises:
        UserError: a folder is not an evaluation, benchmarks differ, or numbers of seeds differ.
    """
    groups = [
        [evaluation_folder(folder, benchmark) for folder in folders] for folders in (baseline, *systems)
    ]
    if not all(groups):
        what = f"system {groups.index([])}" if groups[0] else "the baseline"
        raise UserError(what, "names no folder", "name evaluation folders, several seeds joined by commas")
    names = list(names or _short_names([group[0] for group in groups]))
    pairs = [
        _paired(groups[0], groups[i], names[i], seeds and (seeds[0], seeds[i])) for i in range(1, len(groups))
    ]
    first = read_evaluation(groups[0][0])
    about = first.results["benchmark"]
    measures = measures_of(about["name"])
    metrics = sorted({metric for _, metric in measures} | {"map"})
    old = {folder: read_evaluation(folder, metrics) for folder in groups[0]}
    _check_same_benchmark(first, list(old.values()))
    tests: list[dict[str, Any]] = []
    by_system: dict[str, dict[str, Any]] = {"cell_gain": {}, "cell_p": {}, "typology": {}}
    pair_cells: dict[str, dict[str, Any]] = {"map": {}, "unseen": {}}
    for name, (before, after) in zip(names[1:], pairs, strict=True):
        a, b = [old[folder] for folder in before], [read_evaluation(folder, metrics) for folder in after]
        _check_same_benchmark(first, b)
        tests += [
            {"system": name, "baseline": names[0], **row}
            for row in _tests(a, b, measures, cluster, confidence)
        ]
        pair_cells["map"] |= {names[0]: json_values(_mean_cells(a).tolist())}
        pair_cells["map"] |= {name: json_values(_mean_cells(b).tolist())}
        pair_cells["unseen"][name] = _unseen(b)
        gain = _mean_cells(b) - _mean_cells(a)
        by_system["cell_gain"][name] = json_values(gain.tolist())
        by_system["cell_p"][name] = json_values(_cell_p(a, b, first.languages, cluster).tolist())
        by_system["typology"][name] = json_values(_typology(a, b, gain, cluster, confidence))
    real = [row for row in tests if not row["trivial"]]
    for rows, key in ((real, "p_randomisation"), ([row["seeds"] for row in real if row["seeds"]], "p")):
        for row, p in zip(rows, holm([row[key] for row in rows]), strict=True):
            row["p_holm"] = p
    keys = ("name", "label", "variant", "fingerprint", "languages", "own_text_relevant")
    published = published_means(about["name"], about["variant"], about["languages"])
    in_use = published.metric.isin(sorted({metric for _, metric in measures}))
    return {
        "schema": "hbt_dist.comparison",
        "schema_version": 2,
        "benchmark": {key: about[key] for key in keys if key in about},
        "resampled": cluster,
        "confidence": confidence,
        "folders": {name: list(map(str, group)) for name, group in zip(names, groups, strict=True)},
        "tests": tests,
        "pairs": {"languages": first.languages, **pair_cells},
        **by_system,
        "published": published[in_use].to_dict(orient="records"),
    }


def _paired(
    old: list[Path], new: list[Path], name: str, seeds: Sequence[Sequence[object]] | None
) -> tuple[list[Path], list[Path]]:
    """Return the folders of the common seeds, seed by seed; one against several is left as it is."""
    if seeds:
        by_seed = dict(zip(seeds[0], old, strict=True)), dict(zip(seeds[1], new, strict=True))
        common = [seed for seed in by_seed[0] if seed in by_seed[1]]
        if not common:
            raise UserError(name, "has no seed of the baseline", "compare trainings with the same seeds")
        return [by_seed[0][seed] for seed in common], [by_seed[1][seed] for seed in common]
    if len(old) != len(new) and min(len(old), len(new)) > 1:
        raise UserError(
            name,
            f"expected {len(old)} folders as the baseline has, got {len(new)}",
            "name the same seeds of both, in the same order",
        )
    return old, new


def start_evaluations(systems: Sequence[Sequence[str | Path]], benchmark: str | None = None) -> list[Path]:
    """Return the evaluations of one run before its training, seed by seed.

    Raises:
        UserError: there are several systems, or a folder is not a run with such an evaluation.
    """
    if len(systems) != 1:
        raise UserError("--baseline", f"expected a folder, for {len(systems)} systems", "name the baseline")
    for folder in systems[0]:
        if not (Path(folder) / "evaluation").is_dir():
            problem = "has no evaluation before a training, expected the folder of a run"
            raise UserError(str(folder), problem, "name the baseline with --baseline")
    return [evaluation_folder(folder, benchmark, BEFORE_TRAINING) for folder in systems[0]]


def _short_names(folders: list[Path]) -> list[str]:
    """Return the names of runs, or the ends of the paths, as long as needed to differ.

    Parts that all paths share at the end are left out; equal paths have numbers.
    """
    parts = [_without_moment(folder.absolute().parts) for folder in folders]
    while len({path[-1] for path in parts}) == 1 and len(set(parts)) > 1 and min(map(len, parts)) > 2:
        parts = [path[:-1] for path in parts]
    for length in range(1, max(len(path) for path in parts)):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{i}: {folder}" for i, folder in enumerate(folders)]


def _without_moment(path: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path of the run instead of RUN/evaluation/MOMENT/LABEL, with moments before its end."""
    if len(path) < 5 or path[-3] != "evaluation":
        return path
    *above, run, _, moment, _ = path
    return (*above, run if moment in AFTER_TRAINING else f"{run} ({moment})")


def _check_same_benchmark(first: StoredEvaluation, group: _Group) -> None:
    for evaluation in group:
        a, b = first.results["benchmark"], evaluation.results["benchmark"]
        if a["fingerprint"] != b["fingerprint"]:
            raise UserError(
                str(evaluation.folder),
                f"expected {title_of(first.results)}, fingerprint {a['fingerprint'][:12]}, as in "
                f"{first.folder}; got {title_of(evaluation.results)}, fingerprint {b['fingerprint'][:12]}",
                "evaluate both on the same version, variant and languages",
            )


def _tests(
    baseline: _Group,
    system: _Group,
    measures: Sequence[tuple[str, str]],
    cluster: str,
    confidence: float,
) -> list[dict[str, Any]]:
    tests = []
    benchmark = baseline[0].results["benchmark"]
    for setting, metric in measures:
        rows = PairedRows.join(baseline, system, setting, metric, cluster)
        if len(np.unique(rows.unit)) < 2:
            continue
        gain = rows.gain(rows.even())
        units = compare_units(gain.shares, gain.old, gain.new, flipped=gain.flipped, confidence=confidence)
        seeds = seed_test(gain.per_seed, confidence)
        row: dict[str, Any] = {
            "setting": setting,
            "metric": metric,
            "trivial": setting == "monolingual" and benchmark["own_text_relevant"],
            "macro_baseline": _macro(baseline, setting, metric),
            "macro_system": _macro(system, setting, metric),
            "chance": baseline[0].results["chance"][setting] if metric == "map" else None,
            **asdict(units),
            "p_holm": None,
            "seeds": seeds and {**seeds, "p_holm": None},
        }
        tests.append(row)
    return tests


def _cell_p(baseline: _Group, system: _Group, languages: list[str], cluster: str) -> Float64:
    """(L, L) p of each pair cell's change, corrected for all cells; NaN where a cell is empty or trivial."""
    trivial = baseline[0].results["benchmark"]["own_text_relevant"]
    rows = PairedRows.join(baseline, system, "crosslingual" if trivial else "pair", "map", cluster)
    size, num_cells = len(languages), len(rows.cells)
    p_of_cell = np.full((size, size), np.nan)
    if num_cells:
        length = (int(rows.unit.max()) + 1) * num_cells
        flat = rows.unit * num_cells + rows.cell
        counts = np.bincount(flat, minlength=length)
        sums = np.bincount(flat, (rows.new - rows.old).mean(axis=0), minlength=length)
        difference = np.divide(sums, counts, out=np.full(length, np.nan), where=counts > 0)
        p_values = step_down_by_column(difference.reshape(-1, num_cells))
        index = {code: i for i, code in enumerate(languages)}
        for (question_language, candidate_language), p in zip(rows.cells, p_values.tolist(), strict=True):
            p_of_cell[index[question_language], index[candidate_language]] = p
    return p_of_cell


def _macro(group: _Group, setting: str, metric: str) -> float:
    if metric == "rank_distance":
        values = [rank_distance_of(evaluation.results) for evaluation in group]
    else:
        values = [evaluation.results["means"][setting]["macro"][metric] for evaluation in group]
    return float(np.mean([math.nan if value is None else value for value in values]))


def _unseen(group: _Group) -> list[str]:
    """Return the languages that no model of a system has seen in training."""
    facts = [evaluation.results["by_language"] for evaluation in group]
    return [code for code in group[0].languages if all(rows[code]["seen"] is False for rows in facts)]


def _mean_cells(group: _Group) -> Float64:
    return np.asarray(np.mean([evaluation.cells() for evaluation in group], axis=0))


def _typology(
    baseline: _Group, system: _Group, gain: Float64, cluster: str, confidence: float
) -> dict[str, Any]:
    """Gain against each distance, and by families: pairs of them, and Uralic against Indo-European."""
    languages = baseline[0].languages
    rows = PairedRows.join(baseline, system, "crosslingual", "map", cluster)
    known = [evaluation.results["by_language"] for evaluation in (*baseline, *system)]
    seen = {
        code: None
        if any(evaluation[code]["seen"] is None for evaluation in known)
        else any(evaluation[code]["seen"] for evaluation in known)
        for code in languages
    }
    return {
        "distances": [asdict(effect) for effect in distance_effects(gain, languages)],
        "families": [asdict(difference) for difference in family_differences(rows, seen, confidence)]
        if rows.cells
        else [],
        "family_pairs": family_gains(rows, confidence) if rows.cells else [],
    }


def write_comparison(document: dict[str, Any], out_dir: str | Path) -> Path:
    """Write comparison.json, comparison.csv (one row per test) and comparison.txt, each in one step.

    Raises:
        UserError: the folder cannot be written.
    """
    out = Path(out_dir)
    tests = [
        {**row, **{f"seeds_{key}": value for key, value in (row["seeds"] or {}).items()}}
        for row in document["tests"]
    ]
    columns = [key for key in dict.fromkeys(key for row in tests for key in row) if key != "seeds"]
    with explained_write(out, "name a folder you can write"):
        out.mkdir(parents=True, exist_ok=True)
        atomic_write(out / "comparison.txt", comparison_text(document) + "\n")
        rows = io.StringIO()
        writer = csv.DictWriter(rows, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(tests)
        atomic_write(out / "comparison.csv", rows.getvalue())
        write_json(out / "comparison.json", json_values(document))
    return out


def comparison_json(document: dict[str, Any]) -> str:
    """Return comparison.json in one line."""
    return json.dumps(json_values(document), ensure_ascii=False, allow_nan=False)
