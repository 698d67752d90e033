"""Report what cut and quantised embeddings lose: a block of results.json, a table, lines for the terminal.

    representations.csv     one row per representation and cell of the pair matrix, and per question language
                            in the pool of all languages (no candidate language): mAP, loss against full
                            embeddings, p of a paired test over question ids, corrected for the rows of the
                            representation; no p where the caller gives no test
    representations/NAME/   the evaluation folder of each, which `hbt-dist report` and `compare` read

Shapes: L languages, U question ids, C cells.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from itertools import product
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.numbers import plain
from hbt_dist.evaluation.evaluation import Evaluation
from hbt_dist.evaluation.matrix_rows import Float64, Int64
from hbt_dist.evaluation.pair_matrix import language_means, mean_or_nan
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.evaluation.settings import Representation

#: (U, C) differences by question id, NaN where a cell lacks it -> (C,) p, corrected for all cells.
PairedTest = Callable[[Float64], Float64]
FOLDER = "representations"
_COLUMNS = ("representation", "bytes_per_vector", "question_language", "candidate_language")
_FIGURES = ("num_questions", "map", "loss", "p")


def scored_forms(evaluation: Evaluation) -> dict[Representation, Evaluation]:
    """Return the evaluations of full embeddings and of each representation."""
    full = Representation(evaluation.width, "float32", is_cut=False)
    return {full: evaluation, **evaluation.representations}


def folder_of(item: Representation) -> str:
    """Return the folder of a representation inside that of its evaluation."""
    return f"{FOLDER}/{item.name.replace(':', '-')}"


def loss_block(evaluation: Evaluation) -> dict[str, Any]:
    """Return the block of results.json: representation -> size, folder, mAP, losses."""
    cells = evaluation.pair_matrix.values["map"]
    block: dict[str, Any] = {}
    for item, scored in scored_forms(evaluation).items():
        distance: Any = scored.bias.get("rank_distance", {})
        block[item.name] = {
            "width": item.width,
            "precision": item.precision,
            "bytes_per_vector": item.bytes_per_vector,
            "folder": folder_of(item) if scored is not evaluation else ".",
            "map": {setting: scored.means[setting]["macro"]["map"] for setting in SETTINGS},
            "rank_distance": distance.get("macro"),
            "num_relevant_pairs_tied": int((scored.ranks.tied > 0).sum()),
            "loss_by_language": _language_losses(
                evaluation.benchmark.languages, cells - scored.pair_matrix.values["map"]
            ),
        }
    return block


def _language_losses(languages: tuple[str, ...], losses_LL: Float64) -> dict[str, float]:
    """Return the mean loss over the cells that have a language as question or candidate language."""
    return {
        code: mean_or_nan(np.concatenate([losses_LL[i], np.delete(losses_LL[:, i], i)]))
        for i, code in enumerate(languages)
    }


def loss_lines(evaluation: Evaluation) -> list[str]:
    """Format one line per representation: bytes per vector and mAP."""
    if not evaluation.representations:
        return []
    lines = [f"{'representation':<16}{'bytes':>9}" + "".join(f"{setting:>14}" for setting in SETTINGS)]
    for item, scored in scored_forms(evaluation).items():
        values = (scored.means[setting]["macro"]["map"] for setting in SETTINGS)
        shown = "".join(f"{plain(value):>14}" for value in values)
        lines.append(f"{item.name:<16}{item.bytes_per_vector:9,}{shown}")
    return lines


def write_losses(evaluation: Evaluation, path: Path, test: PairedTest | None) -> None:
    """Write representations.csv in full precision."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, *_FIGURES])
        for item, scored in scored_forms(evaluation).items():
            for row in _rows(evaluation, scored, test):
                values = ("" if isinstance(value, float) and isnan(value) else value for value in row)
                writer.writerow([item.name, item.bytes_per_vector, *values])


def _rows(evaluation: Evaluation, scored: Evaluation, test: PairedTest | None) -> Iterator[list[Any]]:
    benchmark = evaluation.benchmark
    figures, full = _cell_means(scored), _cell_means(evaluation)
    losses, p = full - figures, np.full(len(full), np.nan)
    if scored is evaluation:
        losses = p
    elif test is not None:
        p = test(_differences(evaluation, scored))
    sizes = np.concatenate(
        [
            evaluation.pair_matrix.num_questions.ravel(),
            np.bincount(benchmark.question_language, minlength=len(benchmark.languages)),
        ]
    )
    codes = benchmark.languages
    names = [*product(codes, codes), *((code, "") for code in codes)]
    columns = (column.tolist() for column in (sizes, figures, losses, p))
    for name, size, *values in zip(names, *columns, strict=True):
        if size:
            yield [*name, size, *values]


def _cell_means(evaluation: Evaluation) -> Float64:
    """Return mAP of the cells of the pair matrix, row by row, then by question language in the pool."""
    pooled = language_means(evaluation.benchmark, evaluation.tables["multilingual"])["map"]
    return np.concatenate([evaluation.pair_matrix.values["map"].ravel(), pooled])


def _differences(evaluation: Evaluation, scored: Evaluation) -> Float64:
    """Return the loss of average precision by question id and cell: (U, C), cells as in `_cell_means`."""
    benchmark = evaluation.benchmark
    size = len(benchmark.languages)
    ids, unit = np.unique(np.asarray(benchmark.question_ids, dtype=object), return_inverse=True)
    differences = np.full((len(ids), size * (size + 1)), np.nan)
    language: Int64 = np.asarray(benchmark.question_language, np.int64)
    for setting in ("pair", "multilingual"):
        table = evaluation.tables[setting]
        asking = language[table.question]
        cell = asking * size + table.candidate_language if setting == "pair" else size * size + asking
        loss = table.values["map"] - scored.tables[setting].values["map"]
        differences[unit[table.question], cell] = loss
    return differences
