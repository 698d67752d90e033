"""Write an evaluation as a folder that is either complete or absent.

    results.json                  everything as one document (results.py has the schema)
    pair_matrix.csv               mAP; first column the question language, header the candidate languages
    one_target_matrix.csv         the same over the pool of all languages
    per_question.parquet          every metric of every ranking, and the bias of every question
    representations.csv           mAP and loss of cut and quantised embeddings, if scored (losses.py)
    representations/NAME/         the evaluation folder of each
    top.run.gz, qrels.gz          TREC files, on request
    mteb.json                     the layout of MTEB's result files

Files are written to a temporary folder, which is then renamed. It replaces an older evaluation; a target that
holds anything else is refused.
"""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import atomic_folder, check_writable, write_json
from hbt_dist.evaluation.evaluation import Evaluation
from hbt_dist.evaluation.export import check_trec_ids, mteb_document, write_qrels, write_run
from hbt_dist.evaluation.losses import PairedTest, folder_of, write_losses
from hbt_dist.evaluation.metrics import UNRANKED
from hbt_dist.evaluation.pair_matrix import PairMatrix, QuestionTable
from hbt_dist.evaluation.read_results import json_values
from hbt_dist.evaluation.results import results_document

RESULTS = "results.json"


def write_evaluation(
    evaluation: Evaluation,
    out_dir: str | Path,
    *,
    trec: bool = False,
    add_files: Callable[[Path], object] | None = None,
    test_losses: PairedTest | None = None,
) -> Path:
    """Write all files of an evaluation to `out_dir`, which appears complete or not at all.

    Args:
        evaluation: what `evaluate` returned.
        out_dir: new folder, or one that holds an evaluation, which is replaced.
        trec: also write the TREC run (top lists) and qrels: about 20 MB per million lines.
        add_files: called with the folder before it appears, such as `hbt_dist.write_report`.
        test_losses: gives the p values of representations.csv; default: none.

    Raises:
        UserError: `out_dir` holds something else, or cannot be written.
    """
    if trec:
        check_trec_ids(evaluation.benchmark)
    with replaced_folder(Path(out_dir)) as folder:
        _write_files(evaluation, folder)
        if evaluation.representations:
            write_losses(evaluation, folder / "representations.csv", test_losses)
        for item, scored in evaluation.representations.items():
            (folder / folder_of(item)).mkdir(parents=True)
            _write_files(scored, folder / folder_of(item))
        if trec:
            write_qrels(evaluation, folder / "qrels.gz")
            if evaluation.top is not None:
                write_run(evaluation, folder / "top.run.gz")
        if add_files is not None:
            add_files(folder)
    return Path(out_dir)


def _write_files(evaluation: Evaluation, folder: Path) -> None:
    write_json(folder / RESULTS, results_document(evaluation))
    write_matrix(evaluation.pair_matrix, folder / "pair_matrix.csv")
    write_matrix(evaluation.one_target_matrix, folder / "one_target_matrix.csv")
    write_json(folder / "mteb.json", json_values(mteb_document(evaluation)))
    pq.write_table(per_question(evaluation), folder / "per_question.parquet", compression="zstd")


def check_target(target: Path, holds: str = RESULTS, kind: str = "evaluation") -> None:
    """Check that a target is new, empty, or an older folder of its kind, and can be written.

    Args:
        holds: the file by which a folder of the kind is known.

    Raises:
        UserError: it holds something else, or cannot be written.
    """
    if os.path.lexists(target) and (
        not target.is_dir() or (any(target.iterdir()) and not (target / holds).is_file())
    ):
        raise UserError(
            str(target),
            f"exists without {holds}: expected an older {kind}",
            f"name a new folder, or an older {kind} to replace",
        )
    check_writable(target)


@contextmanager
def replaced_folder(target: Path, holds: str = RESULTS, kind: str = "evaluation") -> Iterator[Path]:
    """Yield a folder that replaces `target` when the block ends without an error.

    Raises:
        UserError: `target` holds something else, or cannot be written.
    """
    check_target(target, holds, kind)
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        with atomic_folder(target) as folder:
            yield folder
            if target.exists():
                target.rename(old)
    except OSError as error:
        raise UserError(
            str(target),
            f"cannot be written: {error.strerror or first_line(error)}",
            "name a folder you can write",
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def write_matrix(matrix: PairMatrix, path: Path, metric: str = "map") -> None:
    """CSV in full precision: first column the question language, header the candidate languages."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question_language", *matrix.languages])
        for language, row in zip(matrix.languages, matrix.values[metric].tolist(), strict=True):
            writer.writerow([language, *("" if isnan(value) else repr(value) for value in row)])


def per_question(evaluation: Evaluation) -> pa.Table:
    """One row per ranking: setting, question, cluster, languages, metrics; bias in the multilingual rows."""
    return pa.concat_tables(
        [_table_rows(evaluation, table) for table in evaluation.tables.values()], promote_options="default"
    )


def _table_rows(evaluation: Evaluation, table: QuestionTable) -> pa.Table:
    benchmark = evaluation.benchmark
    languages = pa.array(benchmark.languages, pa.string())
    question_language = np.asarray(benchmark.question_language, np.int32)[table.question]
    target = table.candidate_language.astype(np.int32)
    ids, index = np.unique(np.asarray(benchmark.question_ids, dtype=object), return_inverse=True)
    columns: dict[str, Any] = {
        "setting": pa.DictionaryArray.from_arrays(
            np.zeros(len(question_language), np.int32), [table.setting]
        ),
        "question_id": pa.DictionaryArray.from_arrays(index.astype(np.int32)[table.question], ids.tolist()),
        "question_cluster": np.asarray(benchmark.question_cluster, np.int64)[table.question],
        "question_language": pa.DictionaryArray.from_arrays(question_language, languages),
        "candidate_language": pa.DictionaryArray.from_arrays(pa.array(target, mask=target < 0), languages),
        "num_relevant": table.num_relevant,
        "best_rank": pa.array(table.best_rank, mask=table.best_rank == UNRANKED),
        "worst_rank": pa.array(table.worst_rank, mask=table.worst_rank == UNRANKED),
        **table.values,
    }
    if table.setting == "multilingual":
        columns |= {
            name: pa.array(values[table.question], from_pandas=True)
            for name, values in evaluation.question_bias.items()
        }
    return pa.table(columns)
