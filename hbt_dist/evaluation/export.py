"""Export an evaluation for other tools: TREC run and qrels files, MTEB-style JSON.

A question's id in the TREC files is `id:language`, because one id is asked in several languages.
"""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import take_texts
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.language_facts import describe
from hbt_dist.evaluation.evaluation import Evaluation

_QUESTIONS_AT_ONCE = 1024
_MTEB_NAMES = {
    "map": "map_at_full",
    "map@20": "map_at_20",
    "mrr": "mrr_at_full",
    "recall@1": "recall_at_1",
    "recall@10": "recall_at_10",
    "recall@100": "recall_at_100",
    "ndcg@10": "ndcg_at_10",
}


def trec_question_ids(evaluation: Evaluation) -> list[str]:
    """`id:language` of every question row, without white space."""
    benchmark = evaluation.benchmark
    return [
        f"{'_'.join(question_id.split())}:{benchmark.languages[language]}"
        for question_id, language in zip(
            benchmark.question_ids, np.asarray(benchmark.question_language).tolist(), strict=True
        )
    ]


def check_trec_ids(benchmark: Benchmark) -> None:
    """Check that no candidate's id holds white space, which separates the columns of TREC files.

    Raises:
        UserError: an id does.
    """
    for candidate_id in itertools.chain(benchmark.candidate_ids, benchmark.absent_ids):
        if len(candidate_id.split()) != 1:
            raise UserError(
                f"benchmark {benchmark.name}",
                f"the id {candidate_id!r} holds white space, which separates the columns of TREC files",
                "leave out --trec, or change the id",
            )


def write_qrels(evaluation: Evaluation, path: Path) -> None:
    """Write the relevance of the multilingual setting: `question 0 candidate grade`, gzipped."""
    benchmark = evaluation.benchmark
    offsets = np.asarray(benchmark.relevant_offsets).tolist()
    relevant = benchmark.relevant_ids()
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for question, name in enumerate(trec_question_ids(evaluation)):
            pairs = slice(offsets[question], offsets[question + 1])
            for candidate, grade in zip(relevant[pairs], benchmark.grades[pairs].tolist(), strict=True):
                file.write(f"{name} 0 {candidate} {grade:.15g}\n")


def write_run(evaluation: Evaluation, path: Path, tag: str = "hbt_dist") -> None:
    """Write the top lists of the multilingual setting: `question Q0 candidate rank score tag`, gzipped.

    Scores carry nine significant digits, which a float32 survives, so that trec_eval orders as we do.
    """
    if evaluation.top is None:
        raise ValueError("no top lists were kept (top_k is 0)")
    top, names = evaluation.top, trec_question_ids(evaluation)
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for first in range(0, len(names), _QUESTIONS_AT_ONCE):
            some = slice(first, first + _QUESTIONS_AT_ONCE)
            listed = top.rows[some] >= 0  # a list ends where the pool does
            ids = iter(take_texts(evaluation.benchmark.candidate_ids, top.rows[some][listed]))
            for name, length, scores in zip(names[some], listed.sum(axis=1), top.scores[some], strict=True):
                file.writelines(
                    f"{name} Q0 {next(ids)} {rank} {score:.9g} {tag}\n"
                    for rank, score in enumerate(scores[:length].tolist(), 1)
                )


def mteb_document(evaluation: Evaluation) -> dict[str, Any]:
    """Lay out scores like MTEB's result files: one entry per cell, and one for the pool of all languages.

    Keys follow MTEB (`map_at_full` is ours: MTEB has no full-depth mAP); `main_score` is the full-depth mAP.
    """
    benchmark, matrix = evaluation.benchmark, evaluation.pair_matrix
    codes = [f"{describe(code).iso639_3}-{describe(code).script}" for code in benchmark.languages]

    def entry(subset: str, languages: list[str], values: Mapping[str, float]) -> dict[str, Any]:
        scores = {_MTEB_NAMES.get(name, name): value for name, value in values.items()}
        return {
            "hf_subset": subset,
            "languages": languages,
            **scores,
            "main_score": scores["map_at_full"],
        }

    entries = [
        entry(
            f"{question_language}-{candidate_language}",
            [codes[i], codes[j]],
            {m: float(matrix.values[m][i, j]) for m in matrix.values},
        )
        for i, question_language in enumerate(benchmark.languages)
        for j, candidate_language in enumerate(benchmark.languages)
        if matrix.num_questions[i, j]
    ]
    entries.append(entry("multilingual", codes, evaluation.means["multilingual"]["macro"]))
    return {
        "task_name": f"{benchmark.name}-{benchmark.variant}",
        "dataset_revision": benchmark.fingerprint,
        "mteb_version": None,
        "scores": {"test": entries},
        "evaluation_time": None,
        "kg_co2_emissions": None,
    }
