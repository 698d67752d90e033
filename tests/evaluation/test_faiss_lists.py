"""Ranked lists through faiss are those that were counted: ties, duplicates, shards, long lists."""

from __future__ import annotations

import numpy as np
import pytest

from hbt_dist.evaluation import faiss_lists
from hbt_dist.evaluation.config import EvaluationSettings
from hbt_dist.evaluation.evaluation import evaluate


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("k", [1, 10, 100, 500])
def test_lists_equal_the_counted_ones(
    make_benchmark, make_embeddings, kind, shards, shuffled, k, monkeypatch
):
    monkeypatch.setattr(faiss_lists, "_BLOCK_ROWS", 37)
    monkeypatch.setattr(faiss_lists, "_QUESTIONS", 11)
    benchmark = make_benchmark(shuffled=shuffled)
    questions = make_embeddings(kind, benchmark.num_questions, 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=k, num_shards=shards)
    want = evaluate(benchmark, questions, candidates, settings=settings)
    searching = settings.model_copy(update={"ranked_lists": "faiss"})
    found = evaluate(benchmark, questions, candidates, settings=searching)
    np.testing.assert_array_equal(found.ranks.pooled, want.ranks.pooled)
    np.testing.assert_allclose(found.top.scores, want.top.scores, rtol=1e-5, atol=1e-5)
    if kind in (
        "random",
        "duplicates",
    ):  # sums may differ in the last bit, and so may the order of equal rows
        wide = questions.astype(np.float64) @ candidates.astype(np.float64).T
        picked = np.take_along_axis(wide, found.top.rows, 1)
        best = -np.sort(-wide, axis=1)[:, : picked.shape[1]]
        np.testing.assert_allclose(picked, best, rtol=1e-5, atol=1e-5)
        assert all(len(set(row)) == len(row) for row in found.top.rows.tolist())
    else:
        np.testing.assert_array_equal(found.top.rows, want.top.rows)


def test_a_tie_at_the_end_of_a_list_is_searched_deeper(make_benchmark, make_embeddings, monkeypatch):
    benchmark = make_benchmark()
    depths = []
    search = faiss_lists._search

    def watched(faiss, resources, questions, block, wanted):
        depths.append(wanted)
        return search(faiss, resources, questions, block, wanted)

    monkeypatch.setattr(faiss_lists, "_search", watched)
    questions = make_embeddings("constant", benchmark.num_questions, 1)
    candidates = make_embeddings("constant", benchmark.num_candidates, 2)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=3, ranked_lists="faiss")
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    assert depths == [19, 76, 120]
    ids = sorted(benchmark.candidate_ids, reverse=True)[:3]  # equal scores: as trec_eval, by id, descending
    assert [benchmark.candidate_ids[row] for row in evaluation.top.rows[0]] == ids
