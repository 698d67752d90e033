"""Languages of hard negatives: by share, as they were mined, and what no row can have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import chisquare

from hbt_dist.batching.negative_languages import mined_languages_missing
from hbt_dist.batching.negatives import NegativeLists
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import Phase
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import corpus_from_arrays, parallel_corpus, ragged_corpus

SHARES = {"passage": 0.5, "question": 0.2, "other": 0.3}


def plan_of(corpus: Corpus, language: object, count: int = 3, **block: object) -> BatchPlan:
    negatives = {"count": count, "language": language}
    settings = {"global_batch_size": 64, "alpha": 0.3, "hard_negatives": negatives, **block}
    return BatchPlan(corpus, BatchSettings.model_validate(settings), 3)


def test_shares_are_drawn_per_negative() -> None:
    corpus = parallel_corpus(300, 2, 5, most_negatives=6)
    plan = plan_of(corpus, SHARES, alpha=0.0)
    counts, others = np.zeros(3, np.int64), np.zeros(5, np.int64)
    for step in range(40):
        batch = plan.batch(step)
        question, passage = batch.question_language[:, None], batch.passage_language[:, None]
        is_question, is_passage = batch.negative_language == question, batch.negative_language == passage
        counts += [is_passage.sum(), is_question.sum(), (~is_passage & ~is_question).sum()]
        np.add.at(others, batch.negative_language[~is_passage & ~is_question], 1)
        assert corpus.passage_has(batch.negative, batch.negative_language).all()
        assert (corpus.passage_group[batch.negative] != corpus.example_group[batch.example][:, None]).all()
    total = counts.sum()
    assert chisquare(counts, np.array(list(SHARES.values())) * total).pvalue > 1e-3
    assert chisquare(others).pvalue > 1e-3
    again = plan_of(corpus, SHARES, alpha=0.0)
    np.testing.assert_array_equal(again.batch(39).negative_language, batch.negative_language)


def test_a_candidate_takes_the_column_of_its_language() -> None:
    """Each negative is in one language; the order of the candidates decides nothing."""
    languages = np.eye(3, dtype=bool)[np.arange(120) % 3]
    languages[:30] = True  # the positives
    corpus = corpus_from_arrays(
        languages=["de", "en", "fi"],
        example_passage=np.arange(30),
        example_cell=np.zeros(30, np.int32),
        cell_questions=np.ones((1, 3), bool),
        cell_passages=np.ones((1, 3), bool),
        passage_languages=languages,
        negative_offsets=np.arange(31) * 3,
        negatives=np.arange(30, 120),  # of every example one in each language
    )
    batch = plan_of(corpus, SHARES, global_batch_size=20).batch(0)
    for languages_of_row, filled in zip(batch.negative_language, batch.negative_filled, strict=True):
        assert (~filled).sum() == len(set(languages_of_row.tolist()))


def with_mined(corpus: Corpus, seed: int = 0) -> Corpus:
    """Record the language of half of the negatives."""
    random = np.random.default_rng(seed)
    has = corpus.set_languages[corpus.passage_set[corpus.negatives]]
    drawn = (random.random(has.shape) * has).argmax(axis=1)
    mined = np.where(random.random(len(drawn)) < 0.5, drawn, -1).astype(np.int32)
    return replace(corpus, negative_language=mined)


def test_mined_negatives_have_their_recorded_language() -> None:
    corpus = with_mined(parallel_corpus(200, 2, 4, most_negatives=4))
    assert corpus.negative_language is not None
    plan = plan_of(corpus, "mined")
    for step in range(4):
        batch = plan.batch(step)
        recorded = np.where(batch.negative_filled, -1, corpus.negative_language[batch.negative_number])
        want = np.where(recorded < 0, batch.passage_language[:, None], recorded)
        np.testing.assert_array_equal(batch.negative_language, want)
        assert batch.negative_filled.any()
        assert (recorded >= 0).any()


def test_mined_without_records_is_passage_and_is_reported() -> None:
    corpus = ragged_corpus(3)
    mined, passage = plan_of(corpus, "mined", 2), plan_of(corpus, "passage", 2)
    for step in range(3):
        for name in ("negative", "negative_language", "negative_number"):
            np.testing.assert_array_equal(
                getattr(mined.batch(step), name), getattr(passage.batch(step), name)
            )
    settings = mined.settings.hard_negatives
    assert "is like passage here" in mined_languages_missing(corpus, settings)
    assert mined_languages_missing(with_mined(corpus), settings) == ""
    assert mined_languages_missing(corpus, passage.settings.hard_negatives) == ""


def test_the_lists_of_a_phase_bring_their_languages_and_scores() -> None:
    corpus = parallel_corpus(200, 1, 4)
    num = corpus.num_examples
    passage = (np.arange(num)[:, None] + [1, 2, 3]) % 200
    language = np.random.default_rng(0).integers(0, 4, 3 * num).astype(np.int32)
    scores = np.arange(3 * num, dtype=np.float32)
    lists = NegativeLists(np.arange(num + 1) * 3, passage.ravel(), language, scores)
    batch = plan_of(corpus, "mined").in_phase(Phase(range(9), {}, {}), lists).batch(0)
    np.testing.assert_array_equal(batch.negative_language, language[batch.negative_number])
    np.testing.assert_array_equal(batch.negative_score, batch.negative_number)
    np.testing.assert_array_equal(batch.rows(slice(2)).negative_score, batch.negative_number[:2])


def two_languages(fi: int) -> Corpus:
    """Forty English passages, of which some have a Finnish translation; questions have both languages."""
    languages = np.ones((40, 2), bool)
    languages[fi:, 1] = False
    return corpus_from_arrays(
        languages=["en", "fi"],
        example_passage=np.arange(40),
        example_cell=(np.arange(40) >= fi).astype(np.int32),
        cell_questions=np.ones((2, 2), bool),
        cell_passages=np.array([[True, True], [True, False]]),
        passage_languages=languages,
    )


@pytest.mark.parametrize(
    ("language", "block", "message"),
    [
        (SHARES, {"alpha": 0.0}, "a third language for `other` in rows en-fi, got passages in en, fi only"),
        ("question", {"alpha": 0.0}, "not 5 passages in 'fi'"),
        ({"passage": 0.9, "question": 0.1}, {"alpha": 0.0}, "not 5 passages in 'fi'"),
        (
            {"passage": 0.7, "other": 0.3},
            {"alpha": 1.0, "languages": {"en": 1}},
            "rows en-en, .* in en only",
        ),
    ],
)
def test_what_no_row_can_have_is_refused_before_the_first_batch(
    language: object, block: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        plan_of(two_languages(4), language, 5, global_batch_size=4, **block)
    plan_of(two_languages(30), "question", 5, global_batch_size=4, alpha=0.0)


@pytest.mark.parametrize(
    ("language", "message"),
    [({"passage": 0.5}, "the sum 1, got 0.5"), ({"third": 1.0}, "third"), ("english", "mined")],
)
def test_shares_are_checked(language: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BatchSettings.model_validate({"global_batch_size": 4, "hard_negatives": {"language": language}})


def test_in_two_languages_monolingual_rows_have_a_further_language() -> None:
    batch = plan_of(parallel_corpus(100, 2, 2), {"passage": 0.5, "other": 0.5}, alpha=1.0).batch(0)
    assert {0, 1} == set(batch.negative_language.ravel().tolist())
