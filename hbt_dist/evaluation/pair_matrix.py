"""From ranks to tables: per question, per (question language, candidate language) cell, and their means.

Three settings, all from one set of ranks:

    pair          candidates of one language only: the pair matrix. Its diagonal is the monolingual setting,
                  the rest the cross-lingual one
    one_target    candidates of all languages, those of one language relevant, the relevant ones of the other
                  languages taken out of the ranking: punishes language bias too
    multilingual  candidates of all languages, every translation relevant

A cell averages only the questions that have a relevant candidate in its language (MLQA-R: its own denominator
for each cell). A cell without questions is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from hbt_dist.evaluation.matrix_rows import Float64, Int64
from hbt_dist.evaluation.metrics import (
    UNRANKED,
    Metric,
    ceilings,
    chance_average_precision,
    metrics_from_ranks,
    user_values,
)
from hbt_dist.evaluation.ranks import RelevantRanks

if TYPE_CHECKING:
    from hbt_dist.data.benchmarks.benchmark import Benchmark


SETTINGS = ("pair", "one_target", "multilingual")


@dataclass(frozen=True)
class QuestionTable:
    """One row per ranking of a setting: G = questions, or (question, candidate language) pairs."""

    setting: str
    question: Int64  # (G,) question row of the benchmark
    candidate_language: Int64  # (G,) language index; -1 in the multilingual setting
    num_relevant: Int64  # (G,)
    num_in_pool: Int64  # (G,) relevant candidates that can be found
    best_rank: Int64  # (G,)
    worst_rank: Int64  # (G,)
    values: dict[str, Float64]  # metric -> (G,)


def question_tables(
    benchmark: Benchmark, ranks: RelevantRanks, metrics: Mapping[str, Metric] = MappingProxyType({})
) -> dict[str, QuestionTable]:
    """Per-question values of the three settings.

    Args:
        metrics: user-defined metrics, see `user_metrics`.
    """
    offsets = np.asarray(benchmark.relevant_offsets, np.int64)
    question = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    language = benchmark.relevant_language
    grades = np.asarray(benchmark.grades, np.float64)
    order = np.lexsort((language, question))
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(question[order]) != 0) | (np.diff(language[order]) != 0)
    cell_offsets = np.append(np.flatnonzero(new), len(order)).astype(np.int64)

    def table(setting: str, values: Int64, index: Int64, starts: Int64, pooled: bool) -> QuestionTable:
        sorted_ranks = values[index]
        first = index[starts[:-1]]
        return QuestionTable(
            setting=setting,
            question=question[first],
            candidate_language=np.full(len(first), -1) if pooled else language[first],
            num_relevant=np.diff(starts),
            num_in_pool=np.add.reduceat((sorted_ranks < UNRANKED).astype(np.int64), starts[:-1]),
            best_rank=np.minimum.reduceat(sorted_ranks, starts[:-1]),
            worst_rank=np.maximum.reduceat(sorted_ranks, starts[:-1]),
            values=metrics_from_ranks(sorted_ranks, starts, grades[index])
            | user_values(metrics, sorted_ranks, starts),
        )

    everything = np.arange(len(question))
    return {
        "pair": table("pair", ranks.pair, order, cell_offsets, False),
        "one_target": table("one_target", ranks.one_target, order, cell_offsets, False),
        "multilingual": table("multilingual", ranks.pooled, everything, offsets, True),
    }


@dataclass(frozen=True)
class PairMatrix:
    """Means per cell: rows are question languages, columns candidate languages."""

    languages: tuple[str, ...]
    num_questions: Int64  # (L, L)
    values: dict[str, Float64]  # metric -> (L, L)


def pair_matrix(benchmark: Benchmark, table: QuestionTable) -> PairMatrix:
    """Average a `pair` or `one_target` table over the questions of each cell."""
    size = len(benchmark.languages)
    question_language = np.asarray(benchmark.question_language, np.int64)[table.question]
    cell = question_language * size + table.candidate_language
    counts = np.bincount(cell, minlength=size * size)
    values = {name: cell_means(table.values[name], cell, counts).reshape(size, size) for name in table.values}
    return PairMatrix(benchmark.languages, counts.reshape(size, size), values)


def cell_means(values: Float64, cell: Int64, counts: Int64) -> Float64:
    """Mean of `values` in each cell; NaN where a cell is empty."""
    totals = np.bincount(cell, weights=values, minlength=len(counts))
    return np.divide(totals, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def mean_or_nan(values: Float64) -> float:
    """Mean over the values that are there, NaN if none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def setting_means(
    benchmark: Benchmark, tables: dict[str, QuestionTable]
) -> dict[str, dict[str, dict[str, float]]]:
    """Means of every metric: setting -> "macro" | "micro" -> metric -> value.

    Macro averages cells (monolingual: languages, cross-lingual: ordered pairs, multilingual: question
    languages), as in the hybrid batch training paper; micro averages questions, as in LAReQA. They differ
    where languages have different numbers of questions (MLQA-R).
    """
    pair, one_target, pooled = (tables[name] for name in SETTINGS)
    diagonal = np.eye(len(benchmark.languages), dtype=bool)
    same = np.asarray(benchmark.question_language)[pair.question] == pair.candidate_language
    cells, everything = pair_matrix(benchmark, pair).values, slice(None)
    parts: dict[str, tuple[dict[str, Float64], Any, QuestionTable, Any]] = {
        "monolingual": (cells, diagonal, pair, same),
        "crosslingual": (cells, ~diagonal, pair, ~same),
        "multilingual": (language_means(benchmark, pooled), everything, pooled, everything),
        "one_target": (pair_matrix(benchmark, one_target).values, everything, one_target, everything),
    }
    return {
        setting: {
            "macro": {m: mean_or_nan(means[m][mask]) for m in means},
            "micro": {m: mean_or_nan(table.values[m][rows]) for m in means},
        }
        for setting, (means, mask, table, rows) in parts.items()
    }


def language_means(benchmark: Benchmark, table: QuestionTable) -> dict[str, Float64]:
    """Mean of every metric over the questions of each language: (L,) each."""
    question_language = np.asarray(benchmark.question_language, np.int64)[table.question]
    counts = np.bincount(question_language, minlength=len(benchmark.languages))
    return {m: cell_means(table.values[m], question_language, counts) for m in table.values}


def ceiling_means(benchmark: Benchmark, tables: dict[str, QuestionTable]) -> dict[str, dict[str, float]]:
    """Macro means of the best values that any ranking can have: setting -> metric -> value."""
    best = {
        name: replace(table, values=ceilings(table.num_relevant, table.num_in_pool))
        for name, table in tables.items()
    }
    return {setting: means["macro"] for setting, means in setting_means(benchmark, best).items()}


def chance_means(benchmark: Benchmark, tables: dict[str, QuestionTable]) -> dict[str, float]:
    """mAP of a random order of the candidates, setting by setting: the macro means of its expected values."""
    pools = np.bincount(benchmark.candidate_language, minlength=len(benchmark.languages))
    pair, one_target, pooled = (tables[name] for name in SETTINGS)
    searched = np.tile(pools, (benchmark.num_questions, 1))  # (Q, L) without excluded candidates
    np.subtract.at(
        searched, (benchmark.excluded[:, 0], benchmark.candidate_language[benchmark.excluded[:, 1]]), 1
    )
    removed = pooled.num_in_pool[one_target.question] - one_target.num_in_pool
    pool_sizes = {  # a one_target ranking lacks the other translations
        "pair": searched[pair.question, pair.candidate_language],
        "one_target": searched.sum(axis=1)[one_target.question] - removed,
        "multilingual": searched.sum(axis=1)[pooled.question],
    }

    def expected_map(table: QuestionTable, pool: Int64) -> Float64:
        share = table.num_in_pool / table.num_relevant
        return share * chance_average_precision(table.num_in_pool, np.maximum(pool, 1))

    expected = {
        name: replace(tables[name], values={"map": expected_map(tables[name], pool)})
        for name, pool in pool_sizes.items()
    }
    return {setting: means["macro"]["map"] for setting, means in setting_means(benchmark, expected).items()}
