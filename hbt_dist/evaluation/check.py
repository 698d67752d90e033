"""What can be wrong with a benchmark, found before anything is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hbt_dist.errors import UserError

if TYPE_CHECKING:
    from hbt_dist.data.benchmark import Benchmark


def check_benchmark(benchmark: Benchmark) -> None:
    """Refuse a benchmark that cannot be scored. Takes milliseconds per 100,000 rows.

    Raises:
        UserError: no questions or candidates, a language without both, duplicate ids, a question without
            relevant candidates, a relevant row outside the pool or named twice.
    """
    name = f"benchmark {benchmark.name}"
    num_questions, num_candidates = len(benchmark.question_ids), len(benchmark.candidate_ids)
    if not num_questions or not num_candidates:
        raise UserError(
            name, f"{num_questions} questions and {num_candidates} candidates", "both must be there"
        )
    size = len(benchmark.languages)
    asked = np.bincount(benchmark.question_language, minlength=size)
    pooled = np.bincount(benchmark.candidate_language, minlength=size)
    if len(asked) > size or len(pooled) > size:
        raise UserError(name, "a row has a language index beyond the list of languages", f"{size} languages")
    for language, questions, candidates in zip(benchmark.languages, asked, pooled, strict=True):
        if not questions and not candidates:
            raise UserError(
                f"{name}, language '{language}'",
                "it has no questions and no candidates",
                "leave the language out, or check the file it is read from",
            )
    _check_unique(name, "candidate", benchmark.candidate_ids, None)
    _check_unique(name, "question", benchmark.question_ids, benchmark.question_language)
    _check_relevant(benchmark, name)


def _check_unique(name: str, what: str, ids: list[str], language: np.ndarray | None) -> None:
    keys = ids if language is None else list(zip(ids, np.asarray(language).tolist(), strict=True))
    if len(set(keys)) == len(keys):
        return
    seen = set()
    for key, row_id in zip(keys, ids, strict=True):
        if key in seen:
            raise UserError(
                f"{name}, {what} id '{row_id}'", "it occurs twice", "ids must be unique in a language"
            )
        seen.add(key)


def _check_relevant(benchmark: Benchmark, name: str) -> None:
    offsets, relevant = np.asarray(benchmark.relevant_offsets), np.asarray(benchmark.relevant)
    if len(offsets) != len(benchmark.question_ids) + 1 or offsets[-1] != len(relevant):
        raise UserError(
            name, "the relevance table does not fit the questions", "one offset per question and one"
        )
    lengths = np.diff(offsets)
    if (lengths < 1).any():
        row = int(np.flatnonzero(lengths < 1)[0])
        language = benchmark.languages[benchmark.question_language[row]]
        raise UserError(
            f"{name}, question '{benchmark.question_ids[row]}' ({language})",
            "it has no relevant candidate",
            "drop the question, or add its relevant candidate to the pool",
        )
    outside = (relevant < 0) | (relevant >= len(benchmark.candidate_ids))
    question = np.repeat(np.arange(len(lengths)), lengths)
    if outside.any():
        row = int(question[np.flatnonzero(outside)[0]])
        raise UserError(
            f"{name}, question '{benchmark.question_ids[row]}'",
            f"relevant candidate row {int(relevant[outside][0])} is not in the pool",
            f"the pool has {len(benchmark.candidate_ids)} candidates; is the relevance file of another version?",
        )
    order = np.lexsort((relevant, question))
    twice = (np.diff(relevant[order]) == 0) & (np.diff(question[order]) == 0)
    if twice.any():
        at = int(order[np.flatnonzero(twice)[0]])
        raise UserError(
            f"{name}, question '{benchmark.question_ids[int(question[at])]}'",
            f"candidate '{benchmark.candidate_ids[int(relevant[at])]}' is named relevant twice",
            "name each relevant candidate once",
        )
