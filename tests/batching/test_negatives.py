"""Hard negatives: never the row's own group, in the wanted language, all of the data used over time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_dist.batching.config import BatchSettings
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.data.corpus import Corpus
from hbt_dist.errors import UserError
from tests.batching.corpora import parallel_corpus, ragged_corpus


def plan_of(corpus: Corpus, count: int, language: str = "passage", **block: object) -> BatchPlan:
    negatives = {"count": count, "language": language}
    block = {"global_batch_size": 32, "alpha": 0.0, "hard_negatives": negatives, **block}
    return BatchPlan(corpus, BatchSettings.model_validate(block), 3)


def check(corpus: Corpus, batch: GlobalBatch) -> None:
    own = corpus.example_group[batch.example][:, None]
    assert (corpus.passage_group[batch.negative] != own).all()
    assert corpus.passage_has(batch.negative, batch.negative_language).all()
    for row in batch.negative:
        assert len(set(row.tolist())) == len(row)
    for i, example in enumerate(batch.example):
        held = corpus.negatives[corpus.negative_offsets[example] : corpus.negative_offsets[example + 1]]
        from_data = batch.negative[i][~batch.negative_filled[i]]
        assert set(from_data.tolist()) <= set(held.tolist())
        usable = {
            passage
            for passage in held.tolist()
            if corpus.passage_group[passage] != own[i, 0]
            and corpus.passage_has(np.array([passage]), batch.negative_language[i, :1])[0]
        }
        assert len(from_data) == min(len(usable), batch.negative.shape[1])


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 5), st.sampled_from([0, 3, 60]))
def test_negatives_of_parallel_data(seed: int, count: int, most: int) -> None:
    corpus = parallel_corpus(200, 3, 3, seed=seed, most_negatives=most)
    plan = plan_of(corpus, count)
    for step in range(2):
        batch = plan.batch(step)
        check(corpus, batch)
        np.testing.assert_array_equal(
            batch.negative_language, np.repeat(batch.passage_language[:, None], count, 1)
        )


@pytest.mark.parametrize("language", ["passage", "question", "random"])
def test_language_of_negatives(language: str) -> None:
    corpus = parallel_corpus(200, 3, 3)
    languages = set()
    plan = plan_of(corpus, 2, language)
    for step in range(5):
        batch = plan.batch(step)
        languages |= set(batch.negative_language.ravel().tolist())
        if language == "question":
            np.testing.assert_array_equal(batch.negative_language[:, 0], batch.question_language)
    assert languages == {0, 1, 2}


def test_negatives_in_a_language_that_few_passages_have() -> None:
    everything, rare = np.ones((1, 2), bool), np.zeros((5000, 2), bool)
    rare[:, 0] = True
    rare[4990:, 1] = True
    passage = np.arange(4990, 5000)
    corpus = Corpus.from_arrays(
        languages=["en", "fi"],
        example_passage=passage,
        example_cell=np.zeros(10, np.int32),
        cell_questions=everything,
        cell_passages=everything,
        passage_languages=rare,
    )
    block = {"global_batch_size": 8, "alpha": 1.0, "languages": {"fi": 1}}
    batch = plan_of(corpus, 3, **block).batch(0)
    check(corpus, batch)
    assert batch.negative_filled.all()
    with pytest.raises(UserError, match="not 10 passages in 'fi'"):
        plan_of(corpus, 10, **block).batch(0)


def test_all_negatives_of_an_example_are_used_over_time() -> None:
    num = 40
    held = np.stack([(np.arange(num) + shift) % num for shift in range(1, 13)], axis=1)
    everything = np.ones((1, 2), bool)
    corpus = Corpus.from_arrays(
        languages=["en", "fi"],
        example_passage=np.arange(num),
        example_cell=np.zeros(num, np.int32),
        cell_questions=everything,
        cell_passages=everything,
        negative_offsets=np.arange(num + 1) * 12,
        negatives=held.ravel(),
    )
    plan = plan_of(corpus, 2)
    used = np.zeros((num, num), np.int64)
    for step in range(60):
        batch = plan.batch(step)
        assert not batch.negative_filled.any()
        np.add.at(used, (batch.example[:, None], batch.negative), 1)
    assert ((used > 0).sum(axis=1) == 12).all()


def test_ragged_data() -> None:
    corpus = ragged_corpus(2)
    batch = plan_of(corpus, 2, mixture={"any_pair": 1}, alpha=None).batch(5)
    assert (corpus.passage_group[batch.negative] != corpus.example_group[batch.example][:, None]).all()
    assert corpus.passage_has(batch.negative, batch.negative_language).all()
