"""Reciprocal rank fusion against a case by hand, a naive implementation and pytrec_eval."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import pytrec_eval

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.evaluation import assemble, evaluate
from hbt_dist.evaluation.ranks import RelevantRanks
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.methods.expansion.fusion import fuse_rankings


def by_hand() -> Benchmark:
    """One English question; candidates a, b (en) and c, d (fi); b and d are relevant."""
    return Benchmark(
        name="hand",
        variant="test",
        languages=("en", "fi"),
        question_ids=["q"],
        question_language=np.array([0], np.int32),
        question_texts=["?"],
        question_cluster=np.array([0]),
        candidate_ids=["a", "b", "c", "d"],
        candidate_language=np.array([0, 0, 1, 1], np.int32),
        candidate_texts=["a", "b", "c", "d"],
        relevant_offsets=np.array([0, 2]),
        relevant=np.array([1, 3]),
    )


def test_by_hand() -> None:
    # Two runs over a, b, c, d: scores 4 3 2 1 (ranks 1 2 3 4) and 1 3 4 2 (ranks 4 2 1 3).
    candidates = np.array([[4, 1], [3, 3], [2, 4], [1, 2]], np.float32)
    runs = np.eye(2, dtype=np.float32)
    ranks, top = fuse_rankings(by_hand(), runs, np.array([0, 0]), candidates)
    # a 1/61 + 1/64 = .032018, b 2/62 = .032258, c 1/63 + 1/61 = .032266, d 1/64 + 1/63 = .031498
    assert top is not None
    assert top.rows.tolist() == [[2, 1, 0, 3]]
    np.testing.assert_allclose(top.scores[0], [1 / 63 + 1 / 61, 2 / 62, 1 / 61 + 1 / 64, 1 / 64 + 1 / 63])
    assert ranks.pooled.tolist() == [2, 4]
    # en alone: a has ranks 1 and 2, b 2 and 1: a tie, and b has the larger id. fi: c 1 1, d 2 2.
    assert ranks.pair.tolist() == [1, 2]
    # Without d: a 1 3, b 2 2, c 3 1: a and c tie above b (1/61 + 1/63 > 2/62).
    # Without b: a 1 3, c 2 1, d 3 2.
    assert ranks.one_target.tolist() == [3, 3]
    assert ranks.tied.tolist() == [0, 0]


def naive(
    benchmark: Benchmark, runs: np.ndarray, question_of_run: np.ndarray, candidates: np.ndarray, k: int
) -> RelevantRanks:
    """By the definition, pool by pool: sort each run over the pool, add up, sort the sums."""
    out: dict[str, list[float]] = {"pair": [], "one_target": [], "pooled": [], "tied": [], "scores": []}

    def fused(question: int, pool: list[int]) -> dict[int, np.float32]:
        ranks: dict[int, list[int]] = {row: [] for row in pool}
        for run in np.flatnonzero(question_of_run == question):
            scores = {row: np.float32(runs[run] @ candidates[row]) for row in pool}
            best = sorted(pool, key=lambda row: (scores[row], benchmark.candidate_ids[row]), reverse=True)
            for rank, row in enumerate(best, start=1):
                ranks[row].append(rank)
        return {
            row: np.float32(float(sum(Fraction(1, k + rank) for rank in mine))) for row, mine in ranks.items()
        }

    def rank_in(scores: dict[int, np.float32], row: int) -> int:
        ids = benchmark.candidate_ids
        best = sorted(scores, key=lambda other: (scores[other], ids[other]), reverse=True)
        return 1 + best.index(row)

    everything = list(range(benchmark.num_candidates))
    language = benchmark.candidate_language
    for question in range(benchmark.num_questions):
        relevant = benchmark.relevant_of(question).tolist()
        whole = fused(question, everything)
        for row in relevant:
            others = {one for one in relevant if language[one] != language[row]}
            out["pooled"].append(rank_in(whole, row))
            out["pair"].append(
                rank_in(fused(question, [c for c in everything if language[c] == language[row]]), row)
            )
            out["one_target"].append(
                rank_in(fused(question, [c for c in everything if c not in others]), row)
            )
            out["tied"].append(sum(whole[c] == whole[row] for c in everything) - 1)
            out["scores"].append(whole[row])
    return RelevantRanks(
        *(np.array(out[name]) for name in ("pair", "one_target", "pooled", "tied", "scores"))
    )


@pytest.mark.parametrize("shape", [{}, {"shuffled": True, "missing": 0.3, "relevant_per_language": 2}])
@pytest.mark.parametrize("kind", ["random", "mass ties", "constant", "one-dimensional"])
def test_against_the_definition(
    make_benchmark: Callable[..., Benchmark],
    make_embeddings: Callable[..., np.ndarray],
    shape: dict[str, object],
    kind: str,
) -> None:
    benchmark = make_benchmark(num_ids=6, per_language=14, **shape)
    rng = np.random.default_rng(2)
    question_of_run = np.repeat(
        np.arange(benchmark.num_questions), rng.integers(1, 5, benchmark.num_questions)
    )
    runs = make_embeddings(kind, len(question_of_run), 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    settings = EvaluationSettings(top_k=10, num_threads=2)
    ranks, top = fuse_rankings(benchmark, runs, question_of_run, candidates, k=7, settings=settings)
    wanted = naive(benchmark, runs.astype(np.float32), question_of_run, candidates.astype(np.float32), 7)
    for name in ("pair", "one_target", "pooled", "tied"):
        np.testing.assert_array_equal(getattr(ranks, name), getattr(wanted, name), err_msg=name)
    np.testing.assert_array_equal(ranks.scores, wanted.scores.astype(np.float32))
    assert top is not None
    assert top.rows.shape == (benchmark.num_questions, 10)
    for question in range(benchmark.num_questions):
        assert len(set(top.rows[question].tolist())) == 10
        assert (np.diff(top.scores[question]) <= 0).all()


def test_one_run_is_the_plain_evaluation(
    make_benchmark: Callable[..., Benchmark], make_embeddings: Callable[..., np.ndarray], kind: str
) -> None:
    """Fusing a ranking with nothing keeps it; so every setting and measure is that of `evaluate`."""
    if kind in ("random", "duplicates"):
        kind = "float16"  # products that don't depend on the shape of the block
    benchmark = make_benchmark(num_ids=12, per_language=30, shuffled=True, missing=0.2)
    questions = make_embeddings(kind, benchmark.num_questions, 3)
    candidates = make_embeddings(kind, benchmark.num_candidates, 4)
    ranks, top = fuse_rankings(benchmark, questions, np.arange(benchmark.num_questions), candidates)
    plain = evaluate(benchmark, questions, candidates)
    for name in ("pair", "one_target", "pooled"):
        np.testing.assert_array_equal(getattr(ranks, name), getattr(plain.ranks, name))
    assert top is not None
    assert plain.top is not None
    np.testing.assert_array_equal(top.rows, plain.top.rows[:, : top.rows.shape[1]])
    assert assemble(benchmark, ranks, top).means == plain.means


def test_the_same_run_twice_changes_nothing_and_order_has_no_effect(
    make_benchmark: Callable[..., Benchmark], make_embeddings: Callable[..., np.ndarray]
) -> None:
    benchmark = make_benchmark(num_ids=8, per_language=30)
    size = benchmark.num_questions
    a, b, c = (make_embeddings("float16", size, seed) for seed in (5, 6, 7))
    candidates = make_embeddings("float16", benchmark.num_candidates, 8)

    def ranks(*runs: np.ndarray) -> RelevantRanks:
        stacked = np.stack(runs, axis=1).reshape(size * len(runs), -1)
        return fuse_rankings(benchmark, stacked, np.repeat(np.arange(size), len(runs)), candidates)[0]

    np.testing.assert_array_equal(ranks(a, a).pooled, ranks(a).pooled)
    for name in ("pair", "one_target", "pooled", "tied", "scores"):
        first = getattr(ranks(a, b, c), name)
        for order in ((b, c, a), (c, b, a), (a, c, b)):
            np.testing.assert_array_equal(getattr(ranks(*order), name), first)
    assert (ranks(a, b).pooled != ranks(a).pooled).any()


def test_map_is_that_of_pytrec_eval(
    make_benchmark: Callable[..., Benchmark], make_embeddings: Callable[..., np.ndarray]
) -> None:
    benchmark = make_benchmark(num_ids=10, per_language=40)
    size = benchmark.num_questions
    runs = make_embeddings("random", 2 * size, 9)
    candidates = make_embeddings("random", benchmark.num_candidates, 10)
    settings = EvaluationSettings(top_k=benchmark.num_candidates)
    ranks, top = fuse_rankings(benchmark, runs, np.repeat(np.arange(size), 2), candidates, settings=settings)
    assert top is not None
    evaluation = assemble(benchmark, ranks, top)
    names = [f"{i}" for i in range(size)]
    run = {
        names[q]: {
            benchmark.candidate_ids[row]: float(score)
            for row, score in zip(top.rows[q].tolist(), top.scores[q], strict=True)
        }
        for q in range(size)
    }
    qrels = {
        names[q]: {benchmark.candidate_ids[row]: 1 for row in benchmark.relevant_of(q).tolist()}
        for q in range(size)
    }
    found = pytrec_eval.RelevanceEvaluator(qrels, {"map"}).evaluate(run)
    table = evaluation.tables["multilingual"]
    for place, question in enumerate(table.question.tolist()):
        assert table.values["map"][place] == pytest.approx(found[names[question]]["map"], abs=1e-12)


def test_refuses_vectors_that_cannot_be_ranked(make_benchmark: Callable[..., Benchmark]) -> None:
    benchmark = make_benchmark(num_ids=3, per_language=5)
    size = benchmark.num_questions
    runs, candidates = np.ones((size, 4), np.float32), np.ones((benchmark.num_candidates, 4), np.float32)
    with pytest.raises(UserError, match="expected equal widths, got questions 4, candidates 3"):
        fuse_rankings(benchmark, runs, np.arange(size), candidates[:, :3])
    broken = runs.copy()
    broken[1] = np.nan
    with pytest.raises(UserError, match="a run of q"):
        fuse_rankings(benchmark, broken, np.arange(size), candidates)
    with pytest.raises(ValueError, match="every question needs a run"):
        fuse_rankings(benchmark, runs[1:], np.arange(1, size), candidates)
