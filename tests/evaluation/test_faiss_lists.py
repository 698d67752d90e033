"""Ranked lists through faiss are those that were counted: ties, duplicates, shards, long lists."""

from __future__ import annotations

from types import SimpleNamespace

import faiss
import numpy as np
import pytest
import torch

from hbt_dist.evaluation import faiss_lists
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.settings import EvaluationSettings


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
    searcher = faiss_lists.open_searcher

    def watched(faiss, device):
        def open_block(block):
            search = searcher(faiss, device)(block)
            return lambda questions, wanted: depths.append(wanted) or search(questions, wanted)

        return open_block

    monkeypatch.setattr(faiss_lists, "open_searcher", watched)
    questions = make_embeddings("constant", benchmark.num_questions, 1)
    candidates = make_embeddings("constant", benchmark.num_candidates, 2)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=3, ranked_lists="faiss")
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    assert depths == [19, 76, 120]
    ids = sorted(benchmark.candidate_ids, reverse=True)[:3]  # equal scores: as trec_eval, by id, descending
    assert [benchmark.candidate_ids[row] for row in evaluation.top.rows[0]] == ids


class GpuBuild:
    """Faiss as if it were built for GPUs and saw two: says where it was asked, and searches on the CPU."""

    METRIC_INNER_PRODUCT = faiss.METRIC_INNER_PRODUCT

    def __init__(self):
        self.asked, self.temporary, self.uploads = [], [], 0

    def omp_set_num_threads(self, number):
        faiss.omp_set_num_threads(number)

    def get_num_gpus(self):
        return 2

    def StandardGpuResources(self):
        return self

    def setTempMemory(self, size):
        self.temporary.append(size)

    def GpuIndexFlatConfig(self):
        return SimpleNamespace(device=0)

    def GpuIndexFlatIP(self, resources, width, config):
        assert resources is self
        index = faiss.IndexFlatIP(width)

        def add(block):
            self.uploads += 1
            index.add(block)

        def search(questions, k):
            self.asked.append(config.device)
            return index.search(questions, k)

        return SimpleNamespace(add=add, search=search)

    def knn(self, questions, block, k, *, metric):
        self.asked.append("cpu")
        return faiss.knn(questions, block, k, metric=metric)


@pytest.mark.parametrize(
    ("device", "k", "searched_on", "words"),
    [
        ("cpu", 5, {"cpu"}, ""),  # GPUs in sight are not taken
        ("cuda", 5, {0}, ""),
        ("cuda:1", 5, {1}, ""),
        ("cuda:2", 5, {"cpu"}, "faiss searches on the CPU: this build of faiss sees 2 GPUs, not cuda:2"),
        ("cuda:1", 2040, {"cpu"}, "faiss searches on the CPU: lists of 2,056; it finds at most 2,048"),
    ],
)
def test_searches_on_the_device_of_the_settings(
    make_benchmark, make_embeddings, monkeypatch, capsys, device, k, searched_on, words
):
    benchmark = make_benchmark(per_language=700)
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    build = GpuBuild()
    monkeypatch.setattr(faiss_lists, "load_faiss", lambda: build)
    if k == 5:
        monkeypatch.setattr(faiss_lists, "_BLOCK_ROWS", 1060)
    monkeypatch.setattr(faiss_lists, "_QUESTIONS", 11)
    faiss_lists._note_cpu.cache_clear()
    plan = plan_scoring(benchmark)
    for _ in range(2):
        found = faiss_lists.faiss_top_lists(plan, questions, candidates, k, device=torch.device(device))
    assert set(build.asked) == searched_on
    on_gpu = searched_on != {"cpu"}
    assert build.uploads == (4 if on_gpu else 0)  # two blocks, twice, whatever the number of questions
    assert build.temporary == ([faiss_lists.GPU_BYTES] if on_gpu else [])  # once in a process
    notes = capsys.readouterr().err
    assert notes.count("faiss searches") == bool(words)
    assert words in notes
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=k)
    want = evaluate(benchmark, questions, candidates, settings=settings).top
    np.testing.assert_allclose(found.scores, want.scores, rtol=1e-5, atol=1e-5)


def test_the_evaluation_hands_its_device_on(make_benchmark, make_embeddings, monkeypatch):
    benchmark = make_benchmark()
    build = GpuBuild()
    monkeypatch.setattr(faiss_lists, "load_faiss", lambda: build)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=3, ranked_lists="faiss")
    vectors = [make_embeddings("random", n, n) for n in (benchmark.num_questions, benchmark.num_candidates)]
    assert evaluate(benchmark, *vectors, settings=settings).top is not None
    assert set(build.asked) == {"cpu"}
