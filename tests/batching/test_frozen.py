"""Vectors of a frozen model for a slice: those of its texts, in the order of its rows and of the gathers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.collate import frozen_vectors, gathered_order
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.corpus import Role
from tests.batching.corpora import corpus_from_arrays


class Named:
    """Gives a text a vector that says which text it is: the length is scaled away, the direction stays."""

    def read(
        self, role: Role, rows: NDArray[np.integer], languages: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        side = np.full(len(rows), 1 if role == "question" else 2)
        return np.stack([np.ones(len(rows)), side, rows + 1, languages + 1], 1).astype(np.float32)


def texts(vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Side, row and language of each vector."""
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    return np.rint(vectors[:, 1:] / vectors[:, :1]).astype(np.int64) - [0, 1, 1]


def test_every_rank_reads_the_vectors_of_its_texts_and_of_all() -> None:
    corpus = corpus_from_arrays(
        languages=["en", "fi"],
        example_passage=np.arange(40),
        example_cell=np.zeros(40, np.int32),
        cell_questions=np.ones((1, 2), bool),
        cell_passages=np.ones((1, 2), bool),
    )
    settings = BatchSettings(global_batch_size=8, mixture={"any_pair": 1}, hard_negatives={"count": 2})
    batch = BatchPlan(corpus, settings, seed=3).batch(0)
    positives = np.asarray(corpus.example_passage)[batch.example]
    want_passages = np.stack(
        [
            np.full(24, 2),
            gathered_order(positives, batch.negative, 2),
            gathered_order(batch.passage_language, batch.negative_language, 2),
        ],
        1,
    )
    want_questions = np.stack([np.ones(8, np.int64), batch.example, batch.question_language], 1)
    for rank in range(2):
        vectors = frozen_vectors(Named(), corpus, batch, rank, 2, every=True)
        assert vectors.questions_BE is not None
        assert vectors.passages_NE is not None
        np.testing.assert_array_equal(texts(vectors.questions_BE), want_questions)
        np.testing.assert_array_equal(texts(vectors.passages_NE), want_passages)
        local = frozen_vectors(Named(), corpus, batch, rank, 2, every=False)
        assert local.questions_BE is None
        assert local.passages_NE is None
        for part in (vectors, local):
            np.testing.assert_array_equal(texts(part.questions_bE), want_questions[4 * rank : 4 * rank + 4])
            np.testing.assert_array_equal(texts(part.passages_nE), want_passages[12 * rank : 12 * rank + 12])
