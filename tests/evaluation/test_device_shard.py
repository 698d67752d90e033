"""A device shard gives the ranks and lists of the CPU's shard, bit for bit.

torch runs it on the CPU here; tests/pretended_gpu runs it under CUDA's rules and counts the waits.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation import device_shard
from hbt_dist.evaluation.block_scores import ranking_keys
from hbt_dist.evaluation.device_shard import DeviceShard, device_keys, keys_from_device, open_shard
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.plan import GPU_BLOCK, block_sizes, plan_scoring
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Shard
from tests.evaluation.test_ranks import assert_same, rank

on_device = partial(rank, make_shard=partial(DeviceShard, device=torch.device("cpu")))
EXACT = ("mass ties", "negative", "one-dimensional", "float16", "constant")


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("shuffled", [False, True])
def test_equal_to_the_cpus_shard(make_benchmark, make_embeddings, kind, shuffled):
    benchmark = make_benchmark(
        seed=3, num_ids=9, per_language=37, relevant_per_language=2, shuffled=shuffled, missing=0.3
    )
    questions = make_embeddings(kind, benchmark.num_questions, 1)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2)
    want = rank(benchmark, questions, candidates)
    for blocks in ((16, 8), (7, 30), (512, 512)):
        for shards, threads, cache in ((1, 1, 0), (2, 3, 4000), (3, 2, 2**30)):
            got = on_device(
                benchmark, questions, candidates, shards=shards, blocks=blocks, threads=threads, cache=cache
            )
            assert_same(want, got)


@pytest.mark.parametrize("kind", ["random", "duplicates"])
def test_no_digit_depends_on_shards_threads_or_cache(make_benchmark, make_embeddings, kind):
    benchmark = make_benchmark(
        seed=5, num_ids=50, per_language=130, relevant_per_language=3, shuffled=True, missing=0.3
    )
    questions = make_embeddings(kind, benchmark.num_questions, 1, width=129)
    candidates = make_embeddings(kind, benchmark.num_candidates, 2, width=129)
    score = partial(on_device, benchmark, questions, candidates, blocks=(32, 48))
    plain, want = score(), rank(benchmark, questions, candidates, blocks=(32, 48))
    for name in ("pair", "one_target", "pooled", "tied"):
        np.testing.assert_array_equal(getattr(plain[0], name), getattr(want[0], name))
    np.testing.assert_array_equal(plain[1].rows, want[1].rows)
    np.testing.assert_allclose(plain[0].scores, want[0].scores, rtol=1e-4, atol=1e-4)
    for shards in (2, 3, 7):
        assert_same(plain, score(shards=shards))
        assert_same(plain, score(shards=shards, threads=3, cache=2**30))


def test_many_relevant_candidates_of_a_few_questions(make_benchmark, make_embeddings):
    """More relevant pairs in a question block than questions."""
    benchmark = make_benchmark(seed=8, num_ids=3, per_language=60, relevant_per_language=20)
    questions = make_embeddings("float16", benchmark.num_questions, 1)
    candidates = make_embeddings("float16", benchmark.num_candidates, 2)
    want = rank(benchmark, questions, candidates, top_k=0)[0]
    got, top = on_device(benchmark, questions, candidates, blocks=(4, 50), top_k=0)
    assert top is None
    np.testing.assert_array_equal(got.pooled, want.pooled)
    np.testing.assert_array_equal(got.pair, want.pair)


def test_a_fault_in_order_or_threshold_is_seen(make_benchmark, make_embeddings, monkeypatch):
    benchmark = make_benchmark(seed=3, num_ids=9, per_language=37)
    questions = make_embeddings("mass ties", benchmark.num_questions, 1)
    candidates = make_embeddings("mass ties", benchmark.num_candidates, 2)
    want = rank(benchmark, questions, candidates)
    with monkeypatch.context() as patch:
        patch.setattr(device_shard, "device_keys", lambda scores, ids: device_keys(scores, ids.flip(0)))
        with pytest.raises(AssertionError):
            assert_same(want, on_device(benchmark, questions, candidates))
    with monkeypatch.context() as patch:
        patch.setattr(device_shard, "_as_slice", lambda rows: slice(0, len(rows)))
        with pytest.raises(UserError, match="repeat bit by bit"):
            on_device(benchmark, questions, candidates, blocks=(16, 40))


def test_lists_from_groups_of_keys_are_complete(make_benchmark, make_embeddings, monkeypatch):
    """Enough candidates in a block that most groups of keys are left out, and 5 more than whole groups."""
    benchmark = make_benchmark(num_ids=10, per_language=335, shuffled=True)
    questions = make_embeddings("float16", benchmark.num_questions, 1)
    candidates = make_embeddings("float16", benchmark.num_candidates, 2)
    want = rank(benchmark, questions, candidates, blocks=(64, 256))
    for blocks in ((64, 1005), (64, 203)):
        assert_same(want, on_device(benchmark, questions, candidates, blocks=blocks))
    real = torch.Tensor.topk
    monkeypatch.setattr(
        torch.Tensor, "topk", lambda keys, k, dim, sorted: real(keys, max(1, k - 7), dim, sorted=sorted)
    )
    keys = (torch.arange(1000) * 617 % 1000)[None]
    likely = torch.cat(device_shard._likely_top(keys, 10), dim=1)
    assert real(likely, 10, 1).values.tolist() != real(keys, 10, 1).values.tolist()


@pytest.mark.parametrize("make_shard", [Shard, partial(DeviceShard, device=torch.device("cpu"))])
def test_a_product_that_does_not_repeat_is_an_error(make_benchmark, make_embeddings, make_shard):
    """The score of each relevant pair comes back one step higher than in the product that counts."""

    class Unsteady:
        blocks_at_once = 0

        def __init__(self, *args, **options):
            self._shard = make_shard(*args, **options)
            self.count = self._shard.count

        def relevant_scores(self, blocks):
            pairs, scores = self._shard.relevant_scores(blocks)
            return pairs, np.nextafter(scores, np.float32(np.inf))

    benchmark = make_benchmark()
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    rank(benchmark, questions, candidates, make_shard=make_shard)
    with pytest.raises(UserError, match="repeat bit by bit"):
        rank(benchmark, questions, candidates, make_shard=Unsteady)


def test_a_bad_vector_is_named(make_benchmark, make_embeddings):
    benchmark = make_benchmark()
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    candidates[100] = np.nan
    with pytest.raises(UserError, match="candidate embedding of 'row 100': the vector is not a number"):
        on_device(benchmark, questions, candidates, threads=3)


def test_keys_of_the_device_are_the_keys_of_the_cpu():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((5, 40)).astype(np.float32) * np.float32(1e20)
    scores[:, :8] = [0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 1.0, -1.0]
    order = rng.permutation(40).astype(np.uint32)
    on_device = device_keys(torch.from_numpy(scores), torch.from_numpy(order.astype(np.int64)))
    np.testing.assert_array_equal(keys_from_device(on_device.numpy()), ranking_keys(scores, order))
    assert keys_from_device(np.array([device_shard.NO_KEY])).tolist() == [0]


def test_blocks_are_larger_on_a_gpu_and_not_larger_than_the_benchmark(make_benchmark, make_embeddings):
    benchmark = make_benchmark(num_ids=20, per_language=400)
    assert block_sizes(benchmark, on_gpu=False) == (512, 1024)
    assert block_sizes(benchmark, on_gpu=True) == (512, 1536)
    large = make_benchmark(num_ids=3000, per_language=5000)
    assert block_sizes(large, on_gpu=True) == (GPU_BLOCK, GPU_BLOCK)
    questions = make_embeddings("float16", benchmark.num_questions, 1)
    candidates = make_embeddings("float16", benchmark.num_candidates, 2)
    settings = EvaluationSettings(device="cpu", num_shards=2)
    small, big = (
        evaluate(benchmark, questions, candidates, settings=settings, on_gpu=on_gpu)
        for on_gpu in (False, True)
    )
    assert_same((small.ranks, small.top), (big.ranks, big.top))
    assert small.means == big.means


def test_the_shard_follows_the_device(make_benchmark):
    benchmark = make_benchmark()
    plan = plan_scoring(benchmark)
    questions = np.zeros((512, 4), np.float32)
    options = {"candidate_ids": benchmark.candidate_ids, "top_k": 0, "num_threads": 1}
    for device, kind in (("cpu", Shard), ("meta", DeviceShard)):
        shard = open_shard(plan, range(1), questions, questions, device=torch.device(device), **options)
        assert type(shard) is kind
