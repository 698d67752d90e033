"""Ranks by counting against sorting in float64, and their independence of shards, threads and blocks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.block_scores import ranking_keys
from hbt_dist.evaluation.evaluation import question_names, rank_in_process
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.ranks import rank_relevant
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Shard, arrange_questions

SHARDS = (1, 2, 3, 7)


def rank(
    benchmark,
    questions,
    candidates,
    *,
    shards=1,
    blocks=(16, 8),
    threads=1,
    cache=0,
    top_k=10,
    make_shard=Shard,
):
    """Ranks and top lists through `shards` shards on a grid of small blocks."""
    plan = plan_scoring(benchmark, *blocks)
    arranged = arrange_questions(plan, questions, question_names(benchmark))
    parts = [
        make_shard(plan, part, arranged, candidates, top_k=top_k, num_threads=threads, cache_bytes=cache)
        for part in plan.shard_blocks(shards)
    ]
    return rank_relevant(plan, parts, blocks_at_once=min(part.blocks_at_once for part in parts))


def sorted_ranks(benchmark, scores, question, pool):
    """Rank of every candidate row of `pool`, by sorting (score, id) like trec_eval."""
    order = sorted(pool, key=lambda row: (scores[question, row], benchmark.candidate_ids[row]), reverse=True)
    return {row: place for place, row in enumerate(order, 1)}


def expected_ranks(benchmark, questions, candidates):
    scores = (questions.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    language = benchmark.candidate_language
    pair, one_target, pooled = [], [], []
    for question in range(benchmark.num_questions):
        relevant = benchmark.relevant_of(question).tolist()
        everything = range(benchmark.num_candidates)
        whole = sorted_ranks(benchmark, scores, question, everything)
        for row in relevant:
            own = [r for r in everything if language[r] == language[row]]
            others = {r for r in relevant if language[r] != language[row]}
            pair.append(sorted_ranks(benchmark, scores, question, own)[row])
            one_target.append(
                sorted_ranks(benchmark, scores, question, [r for r in everything if r not in others])[row]
            )
            pooled.append(whole[row])
    return np.array(pair), np.array(one_target), np.array(pooled)


def assert_same(one, other):
    for name in ("pair", "one_target", "pooled", "tied", "scores"):
        np.testing.assert_array_equal(getattr(one[0], name), getattr(other[0], name), err_msg=name)
    np.testing.assert_array_equal(one[1].rows, other[1].rows)
    np.testing.assert_array_equal(one[1].scores, other[1].scores)


@pytest.mark.parametrize("shuffled", [False, True])
def test_counting_equals_sorting(make_benchmark, make_embeddings, kind, shuffled):
    benchmark = make_benchmark(seed=3, num_ids=8, per_language=17, relevant_per_language=2, shuffled=shuffled)
    questions = make_embeddings(kind, benchmark.num_questions, 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    want = expected_ranks(benchmark, questions, candidates)
    for shards in SHARDS:
        ranks, _ = rank(benchmark, questions, candidates, shards=shards)
        for found, expected in zip((ranks.pair, ranks.one_target, ranks.pooled), want, strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("shuffled", [False, True])
def test_top_lists_equal_sorting(make_benchmark, make_embeddings, kind, shuffled):
    benchmark = make_benchmark(seed=4, num_ids=5, per_language=21, shuffled=shuffled)
    questions = make_embeddings(kind, benchmark.num_questions, 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    scores = (questions.astype(np.float64) @ candidates.astype(np.float64).T).astype(np.float32)
    for shards in SHARDS:
        _, top = rank(benchmark, questions, candidates, shards=shards)
        for question in range(benchmark.num_questions):
            places = sorted_ranks(benchmark, scores, question, range(benchmark.num_candidates))
            assert top.rows[question].tolist() == sorted(places, key=places.__getitem__)[:10]
            np.testing.assert_allclose(top.scores[question], scores[question, top.rows[question]], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 3, 24, 129, 384])
@pytest.mark.parametrize("duplicates", [False, True])
def test_no_digit_depends_on_shards_threads_or_cache(make_benchmark, make_embeddings, width, duplicates):
    """Bits of ordinary float32 scores, where two products of different shape would differ."""
    benchmark = make_benchmark(
        seed=5, num_ids=50, per_language=130, relevant_per_language=3, shuffled=True, missing=0.3
    )
    make = partial(make_embeddings, "duplicates" if duplicates else "random", width=width)
    questions, candidates = make(benchmark.num_questions, 1), make(benchmark.num_candidates, 2)
    score = partial(rank, benchmark, questions, candidates, blocks=(32, 48))
    plain = score()
    for shards in SHARDS:
        assert_same(plain, score(shards=shards))
        assert_same(plain, score(shards=shards, threads=3, cache=2**30))
        assert_same(plain, score(shards=shards, threads=2, cache=100_000))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert_same(plain, score(shards=2, threads=2))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_equal_vectors_tie_wherever_they_lie(make_benchmark):
    """A copy in any block, at any place in it, gets the bit-identical score."""
    benchmark = make_benchmark(seed=6, num_ids=30, per_language=500)
    rng = np.random.default_rng(0)
    questions = rng.standard_normal((benchmark.num_questions, 384)).astype(np.float32)
    candidates = np.repeat(rng.standard_normal((1, 384)).astype(np.float32), benchmark.num_candidates, axis=0)
    ranks, _ = rank(benchmark, questions, candidates, blocks=(512, 1024))
    assert (ranks.tied == benchmark.num_candidates - 1).all()
    by_id = {row: place for place, row in enumerate(np.argsort(benchmark.candidate_ids)[::-1].tolist(), 1)}
    assert ranks.pooled.tolist() == [by_id[row] for row in benchmark.relevant.tolist()]


def test_pool_smaller_than_the_lists(make_benchmark, make_embeddings):
    benchmark = make_benchmark(num_ids=2, per_language=2)
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    _, top = rank(benchmark, questions, candidates, top_k=10, shards=3)
    assert (top.rows[:, :6] >= 0).all()
    assert (top.rows[:, 6:] == -1).all()


def test_memory_map_and_other_float_types(make_benchmark, make_embeddings, tmp_path):
    benchmark = make_benchmark(seed=7, shuffled=True)
    questions = make_embeddings("float16", benchmark.num_questions, 1)
    candidates = make_embeddings("float16", benchmark.num_candidates, 2)
    plain = rank(benchmark, questions, candidates)
    np.save(tmp_path / "c.npy", candidates)
    mapped = np.load(tmp_path / "c.npy", mmap_mode="r")
    assert_same(plain, rank(benchmark, questions.astype(np.float64), mapped, shards=3))
    with pytest.raises(AssertionError):  # the comparison can fail
        assert_same(plain, rank(benchmark, questions[::-1], mapped))


def test_ranking_keys_order_like_scores_and_ids():
    scores = np.array([-np.float32(1e30), -1.0, -0.0, 0.0, 1e-40, 2.0, 2.0], np.float32)
    keys = ranking_keys(scores, np.array([0, 9, 3, 2, 0, 1, 7], np.uint32))
    assert np.argsort(keys).tolist() == [0, 1, 3, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "NaN"), (np.inf, "infinite"), (0.0, "zeros"), (1e30, "length")]
)
@pytest.mark.parametrize("what", ["question", "candidate"])
def test_vectors_that_cannot_be_ranked_are_named(make_benchmark, make_embeddings, value, words, what):
    benchmark = make_benchmark()
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    (questions if what == "question" else candidates)[17] = value
    settings = EvaluationSettings(device="cpu")
    with pytest.raises(UserError) as error:
        rank_in_process(benchmark, plan_scoring(benchmark), questions, candidates, settings)
    assert words in str(error.value)
    name = (benchmark.question_ids if what == "question" else benchmark.candidate_ids)[17]
    assert f"{what} embedding of '{name}" in str(error.value)
