"""Every metric against pytrec_eval, in every setting, for every kind of embeddings and 1, 2, 3, 7 shards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import pytrec_eval

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.metrics import (
    METRICS,
    UNRANKED,
    ceilings,
    chance_average_precision,
    metrics_from_ranks,
)
from hbt_dist.evaluation.settings import EvaluationSettings

MEASURES = {
    "map": "map",
    "mrr": "recip_rank",
    "recall@1": "recall_1",
    "recall@10": "recall_10",
    "recall@100": "recall_100",
    "ndcg@10": "ndcg_cut_10",
    "accuracy": "success_1",
}


def judge(qrels, run):
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES.values()) | {"map_cut_20"})
    return evaluator.evaluate(run)


def grades_of(benchmark, question):
    return benchmark.grades[slice(*benchmark.relevant_offsets[question : question + 2])].tolist()


def expected(benchmark, scores, question, pool, relevant):
    ids = benchmark.candidate_ids
    run = {"q": {ids[row]: float(scores[question, row]) for row in pool}}
    grade = dict(zip(benchmark.relevant_of(question).tolist(), grades_of(benchmark, question), strict=True))
    found = judge({"q": {ids[row]: int(grade[row]) for row in relevant.tolist()}}, run)["q"]
    values = {name: found[measure] for name, measure in MEASURES.items()}
    values["map@20"] = found["map_cut_20"] * len(relevant) / min(len(relevant), 20)  # trec_eval divides by R
    return values


@pytest.mark.parametrize(
    ("shards", "grades"), [(1, (1,)), (2, (1, 2, 3)), (3, (1,)), (3, (1, 2, 5)), (7, (1,)), (7, (2, 3))]
)
def test_equal_to_pytrec_eval(make_benchmark, make_embeddings, kind, shards, grades):
    benchmark = make_benchmark(
        seed=shards,
        num_ids=7,
        per_language=45,
        relevant_per_language=1 + 7 * (shards == 3),
        missing=0.3,
        shuffled=shards == 2,
        grades=grades,
    )
    questions = make_embeddings(kind, benchmark.num_questions, 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    settings = EvaluationSettings(num_shards=shards, consistency_questions=0, device="cpu")
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    scores = (questions.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    language = benchmark.candidate_language
    everything = np.arange(benchmark.num_candidates)
    for setting, table in evaluation.tables.items():
        for row, (question, target) in enumerate(zip(table.question, table.candidate_language, strict=True)):
            relevant, pool = benchmark.relevant_of(question), everything
            if setting != "multilingual":
                others = relevant[language[relevant] != target]
                relevant = relevant[language[relevant] == target]
                pool = (
                    everything[language == target] if setting == "pair" else np.setdiff1d(everything, others)
                )
            want = expected(benchmark, scores, question, pool, relevant)
            assert set(want) == set(METRICS) == set(table.values)
            for name, value in want.items():
                assert abs(table.values[name][row] - value) < 1e-9, (setting, name, row)


def test_known_values():
    """Two relevant at ranks 1 and 4: AP = (1/1 + 2/4) / 2."""
    values = metrics_from_ranks(np.array([4, 1]), np.array([0, 2]))
    assert values["map"][0] == 0.75
    assert values["recall@1"][0] == 0.5
    assert values["ndcg@10"][0] == pytest.approx((1 + 1 / np.log2(5)) / (1 + 1 / np.log2(3)), abs=1e-15)


def test_grades_are_linear_gains():
    """trec_eval's ndcg_cut_10 of grades {a: 3, b: 1} with b before a: (1 + 3 / log2 3) / (3 + 1 / log2 3)."""
    values = metrics_from_ranks(np.array([2, 1]), np.array([0, 2]), np.array([3.0, 1.0]))
    judged = judge({"q": {"a": 3, "b": 1}}, {"q": {"b": 2.0, "a": 1.0}})["q"]
    assert values["ndcg@10"][0] == pytest.approx(judged["ndcg_cut_10"], abs=1e-12)
    assert values["ndcg@10"][0] == pytest.approx(0.7967, abs=1e-4)
    assert values["map"][0] == 1.0


def test_a_perfect_order_of_more_than_ten_grades_is_1():
    """The ideal takes the ten best of all grades, and the ten that are found are these."""
    grades = np.sort(np.random.default_rng(0).integers(1, 4, 15))[::-1].astype(np.float64)
    values = metrics_from_ranks(np.arange(1, 16), np.array([0, 15]), grades)
    judged = judge(
        {"q": {f"{i:02d}": int(grade) for i, grade in enumerate(grades)}},
        {"q": {f"{i:02d}": -float(i) for i in range(15)}},
    )["q"]
    assert values["ndcg@10"][0] == 1.0 == pytest.approx(judged["ndcg_cut_10"])


def test_map_at_20_divides_by_what_can_be_found():
    """30 relevant in a perfect ranking: 1, where trec_eval's map_cut_20 gives .667."""
    values = metrics_from_ranks(np.arange(1, 31), np.array([0, 30]))
    assert values["map@20"][0] == 1.0


@pytest.mark.parametrize(
    ("shape", "words"), [((59, 24), "row for each question"), ((60, 23), "same model"), ((60,), "width")]
)
def test_embeddings_that_do_not_fit(make_benchmark, shape, words):
    benchmark = make_benchmark()
    with pytest.raises(UserError, match=words):
        evaluate(benchmark, np.ones(shape, np.float32), np.ones((benchmark.num_candidates, 24), np.float32))


@pytest.mark.parametrize(("relevant", "pool"), [(1, 1), (1, 6), (2, 6), (3, 7), (5, 5)])
def test_chance_is_the_mean_over_all_orders(relevant, pool):
    ranks = np.array(list(itertools.combinations(range(1, pool + 1), relevant)))
    precision = (np.arange(1, relevant + 1) / ranks).mean(axis=1)
    found = chance_average_precision(np.array([relevant]), np.array([pool]))
    assert found[0] == pytest.approx(precision.mean())


def test_ceilings_are_the_metrics_of_a_perfect_order():
    found, missing = np.array([1, 3, 25, 120]), np.array([0, 2, 0, 5])
    lengths = found + missing
    ranks = np.concatenate(
        [[*range(1, n + 1), *[UNRANKED] * absent] for n, absent in zip(found, missing, strict=True)]
    )
    offsets = np.append(0, np.cumsum(lengths))
    best = metrics_from_ranks(ranks.astype(np.int64), offsets)
    for name, values in ceilings(lengths, found).items():
        np.testing.assert_allclose(values, best[name])
    assert {name for name in METRICS if (best[name] < 1).any()} - set(ceilings(lengths, found)) == {"ndcg@10"}
