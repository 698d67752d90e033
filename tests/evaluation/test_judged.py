"""Candidates that a question's rankings leave out, and relevant documents that are not in the pool.

Every path (shards, threads, device, faiss lists, embedding files, fusion) against a reference that sorts, and
against pytrec_eval with BEIR's treatment: hits with the query's id are dropped, qrels stay.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest
import pytrec_eval
import torch

from hbt_dist.comparison.compare import compare
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation import ranks as ranks_module
from hbt_dist.evaluation.device_shard import DeviceShard
from hbt_dist.evaluation.embedding_files import open_embedding_files
from hbt_dist.evaluation.evaluation import evaluate, question_names
from hbt_dist.evaluation.metrics import UNRANKED
from hbt_dist.evaluation.pair_matrix import chance_means
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.ranks import rank_relevant
from hbt_dist.evaluation.read_results import SETTINGS, read_results
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Shard, arrange_questions
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.methods.expansion.fusion import fuse_rankings

ALL_KINDS = ("random", "duplicates", "mass ties", "constant")
MEASURES = {"map": "map", "mrr": "recip_rank", "recall@10": "recall_10", "ndcg@10": "ndcg_cut_10"}


def judged(benchmark: Benchmark, seed: int = 0) -> Benchmark:
    """Some questions lose all or some of their relevant candidates, most leave up to three candidates out."""
    rng = np.random.default_rng(seed)
    size, languages = benchmark.num_candidates, len(benchmark.languages)
    absent_language = np.sort(rng.integers(0, languages, 6)).astype(np.int32)
    rows, grades, excluded, lengths = [], [], [], []
    for question in range(benchmark.num_questions):
        relevant = benchmark.relevant_of(question)
        part = slice(*benchmark.relevant_offsets[question : question + 2])
        kept = rng.random(len(relevant)) < (0.0 if question % 5 == 0 else 0.7)
        missing = np.sort(rng.choice(6, rng.integers(1 - kept.any(), 3), replace=False))
        rows += [*relevant[kept], *(size + missing)]
        grades += [*benchmark.grades[part][kept], *rng.integers(1, 4, len(missing)).astype(float)]
        lengths.append(kept.sum() + len(missing))
        others = np.setdiff1d(np.arange(size), relevant)
        excluded += [(question, row) for row in np.sort(rng.choice(others, question % 4, replace=False))]
    return dataclasses.replace(
        benchmark,
        relevant=np.array(rows, np.int64),
        relevant_offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        grades=np.array(grades),
        absent_ids=[f"absent-{number}" for number in range(6)],
        absent_language=absent_language,
        excluded=np.array(excluded, np.int64),
        fingerprint="",
    )


def scores_of(questions: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    return (questions.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)


def expected(
    benchmark: Benchmark, scores: np.ndarray, top_k: int = 10
) -> tuple[dict[str, list[int]], list[list[int]]]:
    """Ranks and lists by sorting the pool of each question without its excluded candidates."""
    language, size = benchmark.candidate_language, benchmark.num_candidates
    ranks: dict[str, list[int]] = {"pair": [], "one_target": [], "pooled": []}
    lists = []
    for question in range(benchmark.num_questions):
        gone = set(benchmark.excluded[benchmark.excluded[:, 0] == question, 1].tolist())
        order = sorted(
            set(range(size)) - gone,
            key=lambda row: (scores[question, row], benchmark.candidate_ids[row]),
            reverse=True,
        )
        lists.append([*order[:top_k], *[-1] * (top_k - len(order))])
        relevant = benchmark.relevant_of(question).tolist()
        for row in relevant:
            if row >= size:
                for values in ranks.values():
                    values.append(UNRANKED)
                continue
            foreign = {r for r in relevant if r < size and language[r] != language[row]}
            for name, pool in (
                ("pair", [r for r in order if language[r] == language[row]]),
                ("one_target", [r for r in order if r not in foreign]),
                ("pooled", order),
            ):
                ranks[name].append(pool.index(row) + 1)
    return ranks, lists


def score(benchmark, questions, candidates, *, shards=1, threads=1, cache=0, make_shard=Shard, top_k=10):
    plan = plan_scoring(benchmark, 16, 8)
    arranged = arrange_questions(plan, questions, question_names(benchmark))
    kept = plan.num_kept(top_k)
    parts = [
        make_shard(plan, part, arranged, candidates, top_k=kept, num_threads=threads, cache_bytes=cache)
        for part in plan.shard_blocks(shards)
    ]
    return rank_relevant(plan, parts, blocks_at_once=min(part.blocks_at_once for part in parts))


PATHS = {
    "one shard": {},
    "three shards": {"shards": 3},
    "seven shards, threads, cached": {"shards": 7, "threads": 3, "cache": 2**30},
    "device": {"make_shard": partial(DeviceShard, device=torch.device("cpu"))},
    "device, shards": {"make_shard": partial(DeviceShard, device=torch.device("cpu")), "shards": 3},
}


@pytest.fixture(params=ALL_KINDS)
def case(request, make_benchmark, make_embeddings):
    benchmark = judged(
        make_benchmark(
            seed=3, num_ids=9, per_language=17, relevant_per_language=2, shuffled=True, grades=(1, 2)
        )
    )
    questions = make_embeddings(request.param, benchmark.num_questions, 1)
    return benchmark, questions, make_embeddings(request.param, benchmark.num_candidates, 2)


@pytest.mark.parametrize("path", PATHS)
def test_every_path_equals_sorting(case, path):
    benchmark, questions, candidates = case
    scores = scores_of(questions, candidates)
    want, lists = expected(benchmark, scores)
    ranks, top = score(benchmark, questions, candidates, **PATHS[path])
    for name, values in want.items():
        assert getattr(ranks, name).tolist() == values, name
    assert top.rows.tolist() == lists


def test_ties_do_not_count_what_is_left_out(case):
    benchmark, questions, candidates = case
    scores = scores_of(questions, candidates)
    ranks, _ = score(benchmark, questions, candidates)
    pairs = np.repeat(np.arange(benchmark.num_questions), np.diff(benchmark.relevant_offsets))
    for pair, (question, row) in enumerate(zip(pairs.tolist(), benchmark.relevant.tolist(), strict=True)):
        if row >= benchmark.num_candidates:
            assert ranks.tied[pair] == 0
            continue
        gone = benchmark.excluded[benchmark.excluded[:, 0] == question, 1]
        equal = scores[question] == scores[question, row]
        equal[gone] = False
        assert ranks.tied[pair] == equal.sum() - 1


@pytest.mark.parametrize("k", [1, 10, 500])
def test_lists_of_faiss(case, k):
    benchmark, questions, candidates = case
    plain, faiss = (
        evaluate(
            benchmark,
            questions,
            candidates,
            settings=EvaluationSettings(top_k=k, ranked_lists=source, num_shards=3, consistency_questions=0),
        )
        for source in ("counted", "faiss")
    )
    _, lists = expected(benchmark, scores_of(questions, candidates), min(k, benchmark.num_candidates))
    assert plain.top.rows.tolist() == lists
    np.testing.assert_allclose(plain.top.scores, faiss.top.scores, rtol=1e-5, atol=1e-5)
    excluded = set(map(tuple, benchmark.excluded.tolist()))
    assert not any((q, row) in excluded for q, rows in enumerate(faiss.top.rows.tolist()) for row in rows)


def test_embedding_files(case, tmp_path):
    benchmark, questions, candidates = case
    files = open_embedding_files(
        tmp_path, "f" * 64, num_rows=len(candidates), width=candidates.shape[1], rows_per_file=10
    )
    for number in files.missing():
        part = files.rows_of_file(number)
        files.write_file(number, candidates[part.start : part.stop].astype(np.float32))
    memory, disk = (score(benchmark, questions, values, shards=2) for values in (candidates, files))
    for name in ("pair", "one_target", "pooled", "tied", "scores"):
        np.testing.assert_array_equal(getattr(memory[0], name), getattr(disk[0], name))


def test_fusion_of_one_run_is_that_run(case):
    benchmark, questions, candidates = case
    ranks, top = fuse_rankings(
        benchmark, questions, np.arange(len(questions)), candidates, settings=EvaluationSettings(top_k=10)
    )
    want, _ = expected(benchmark, scores_of(questions, candidates))
    assert top is not None
    for name, values in want.items():
        assert getattr(ranks, name).tolist() == values, name
    for question, rows in enumerate(top.rows.tolist()):
        gone = benchmark.excluded[benchmark.excluded[:, 0] == question, 1].tolist()
        assert not set(rows) & set(gone)


def trec_eval(benchmark: Benchmark, scores: np.ndarray, dropped: bool = True) -> dict[str, np.ndarray]:
    """Values of the pool of all languages; qrels hold absent documents too."""
    offsets = benchmark.relevant_offsets
    ids, qrels, run = benchmark.relevant_ids(), {}, {}
    for question in range(benchmark.num_questions):
        part = slice(offsets[question], offsets[question + 1])
        grades = map(int, benchmark.grades[part])
        qrels[str(question)] = dict(zip(ids[part], grades, strict=True))
        run[str(question)] = dict(zip(benchmark.candidate_ids, scores[question].tolist(), strict=True))
    for question, row in benchmark.excluded.tolist() if dropped else ():
        del run[str(question)][benchmark.candidate_ids[row]]
    found = pytrec_eval.RelevanceEvaluator(qrels, set(MEASURES.values())).evaluate(run)
    return {
        name: np.array([found[str(question)][measure] for question in range(benchmark.num_questions)])
        for name, measure in MEASURES.items()
    }


def test_metrics_equal_pytrec_eval(case):
    benchmark, questions, candidates = case
    evaluation = evaluate(benchmark, questions, candidates)
    for name, values in trec_eval(benchmark, scores_of(questions, candidates)).items():
        np.testing.assert_allclose(evaluation.tables["multilingual"].values[name], values, atol=1e-9)


def test_a_comparison_has_the_chance_of_the_evaluation(case, tmp_path):
    benchmark, questions, candidates = case
    for name in ("old", "new"):
        write_evaluation(evaluate(benchmark, questions, candidates), tmp_path / name)
    recorded = read_results(tmp_path / "old")["chance"]
    document = compare([[tmp_path / "new"]], baseline=[tmp_path / "old"])
    chance = {row["setting"]: row["chance"] for row in document["tests"] if row["metric"] == "map"}
    assert chance == {setting: recorded[setting] for setting in SETTINGS}


@pytest.mark.parametrize("fault", ["counted", "in every language", "not in R"])
def test_a_fault_is_seen(make_benchmark, make_embeddings, monkeypatch, fault):
    """The tests above fail for a ranking that forgets the rules."""
    benchmark = judged(
        make_benchmark(seed=3, num_ids=9, per_language=17, relevant_per_language=2, shuffled=True)
    )
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    scores = scores_of(questions, candidates)
    if fault == "not in R":
        evaluation = evaluate(benchmark, questions, candidates)
        present = dataclasses.replace(evaluation.tables["multilingual"])
        wrong = present.values["map"] * present.num_relevant / np.maximum(present.num_in_pool, 1)
        assert not np.allclose(wrong, trec_eval(benchmark, scores)["map"], atol=1e-9)
        return
    real = ranks_module._tracked_above

    def faulty(plan, scores):
        counts = real(plan, scores)
        counts[1 if fault == "counted" else 2] = 0 if fault == "counted" else counts[1]
        return counts

    monkeypatch.setattr(ranks_module, "_tracked_above", faulty)
    want, _ = expected(benchmark, scores)
    ranks, _ = score(benchmark, questions, candidates)
    assert any(getattr(ranks, name).tolist() != values for name, values in want.items())


def test_bias_leaves_out_questions_with_absent_documents(case):
    benchmark, questions, candidates = case
    evaluation = evaluate(benchmark, questions, candidates)
    absent = np.add.reduceat(~benchmark.relevant_in_pool, benchmark.relevant_offsets[:-1]) > 0
    assert np.isnan(evaluation.question_bias["rank_distance"][absent]).all()
    assert np.nanmax(evaluation.question_bias["rank_distance"]) < benchmark.num_candidates


def test_chance_is_the_mean_over_random_orders(make_benchmark):
    benchmark = judged(make_benchmark(seed=5, num_ids=4, per_language=5, shuffled=True))
    rng, width, settings = np.random.default_rng(0), 16, ("monolingual", "multilingual", "one_target")
    means = []
    for _ in range(300):
        questions = rng.standard_normal((benchmark.num_questions, width)).astype(np.float32)
        candidates = rng.standard_normal((benchmark.num_candidates, width)).astype(np.float32)
        evaluation = evaluate(
            benchmark, questions, candidates, settings=EvaluationSettings(top_k=0, consistency_questions=0)
        )
        means.append([evaluation.means[setting]["macro"]["map"] for setting in settings])
    chance = chance_means(benchmark, evaluation.tables)
    errors = np.std(means, axis=0) / np.sqrt(len(means))
    for value, setting, error in zip(np.mean(means, axis=0), settings, errors, strict=True):
        assert abs(value - chance[setting]) < 4 * error, setting
