"""Select the part of a benchmark in some of its languages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark


def select_languages(benchmark: Benchmark, languages: tuple[str, ...]) -> Benchmark:
    """Return the part of a benchmark in some languages, in their order.

    Questions without a relevant candidate in them are left out.

    Raises:
        UserError: the benchmark lacks a language.
    """
    absent = [code for code in languages if code not in benchmark.languages]
    if absent:
        raise UserError(
            f"benchmark {benchmark.name}",
            f"has no {', '.join(map(repr, absent))}",
            f"it has {', '.join(benchmark.languages)}",
        )
    new_index = np.full(len(benchmark.languages), -1, np.int32)
    new_index[[benchmark.languages.index(code) for code in languages]] = np.arange(len(languages))
    candidate_language = new_index[benchmark.candidate_language]
    candidates = np.flatnonzero(candidate_language >= 0)
    candidates = candidates[np.argsort(candidate_language[candidates], kind="stable")]
    new_row = np.full(benchmark.num_candidates, -1, np.int64)
    new_row[candidates] = np.arange(len(candidates))
    question_language = new_index[benchmark.question_language]
    questions = np.flatnonzero(question_language >= 0)
    questions = questions[np.argsort(question_language[questions], kind="stable")]
    relevant, grades = [], []
    for row in questions.tolist():
        part = slice(*benchmark.relevant_offsets[row : row + 2].tolist())
        rows = new_row[benchmark.relevant[part]]
        order = np.argsort(rows)[(rows < 0).sum() :]  # those that are left out come first
        relevant.append(rows[order])
        grades.append(benchmark.grades[part][order])
    kept = [number for number, rows in enumerate(relevant) if len(rows)]
    if not kept:
        raise UserError(
            f"benchmark {benchmark.name}", "no question has a relevant candidate in these languages"
        )
    questions, relevant = questions[kept], [relevant[number] for number in kept]
    return replace(
        benchmark,
        languages=languages,
        question_ids=[benchmark.question_ids[row] for row in questions.tolist()],
        question_language=question_language[questions],
        question_texts=[benchmark.question_texts[row] for row in questions.tolist()],
        question_cluster=np.unique(benchmark.question_cluster[questions], return_inverse=True)[1].astype(
            np.int64
        ),
        candidate_ids=[benchmark.candidate_ids[row] for row in candidates.tolist()],
        candidate_language=candidate_language[candidates],
        candidate_texts=[benchmark.candidate_texts[row] for row in candidates.tolist()],
        relevant_offsets=np.concatenate([[0], np.cumsum([len(rows) for rows in relevant])]).astype(np.int64),
        relevant=np.concatenate(relevant).astype(np.int64),
        grades=np.concatenate([grades[number] for number in kept]),
        fingerprint="",
    )
