"""The second question language: another one that the example has, uniform, the same for every rank."""

from __future__ import annotations

import numpy as np

from hbt_dist.batching.collate import aligned_languages
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import corpus_from_arrays


def corpus_of(cells: np.ndarray, examples: int) -> Corpus:
    return corpus_from_arrays(
        languages=["a", "b", "c", "d"],
        example_passage=np.arange(examples),
        example_cell=(np.arange(examples) % len(cells)).astype(np.int32),
        cell_questions=cells,
        cell_passages=np.ones_like(cells),
    )


def test_the_second_language_is_another_one_that_is_there() -> None:
    cells = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 0, 0, 0]], bool)
    corpus = corpus_of(cells, 900)
    plan = BatchPlan(corpus, BatchSettings(global_batch_size=120, mixture={"any_pair": 1}), seed=5)
    counts = np.zeros((4, 4), int)
    for step in range(40):
        batch = plan.batch(step)
        second = aligned_languages(batch, corpus, seed=5)
        again = aligned_languages(plan.batch(step), corpus, seed=5)
        np.testing.assert_array_equal(second, again)
        has = cells[np.asarray(corpus.example_cell)[batch.example]]
        assert has[np.arange(len(batch)), second].all()
        alone = has.sum(1) == 1
        assert (second[alone] == batch.question_language[alone]).all()
        assert (second[~alone] != batch.question_language[~alone]).all()
        full = has.all(1)
        np.add.at(counts, (batch.question_language[full], second[full]), 1)
    # Uniform over the three others: within 5 standard deviations of a binomial share of 1/3.
    totals = counts.sum(1, keepdims=True)
    shares = counts / totals
    off = ~np.eye(4, dtype=bool)
    assert (np.abs(shares - 1 / 3) < 5 * np.sqrt(2 / 9 / totals))[off].all()
