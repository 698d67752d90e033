"""Hard negatives: never the row's own group, in the wanted language, all of the data used over time."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hbt_dist.batching import negatives
from hbt_dist.batching.negatives import NegativeLists
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.resume import Phase, check_resume
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import corpus_from_arrays, parallel_corpus, ragged_corpus


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
    corpus = corpus_from_arrays(
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
    corpus = corpus_from_arrays(
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


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(1, 6), st.floats(0.02, 1.0))
def test_numbers_of_the_passages_of_a_language(seed: int, num_languages: int, holds: float) -> None:
    has = np.random.default_rng(seed).random((500, num_languages)) < holds
    everything = np.ones((1, num_languages), bool)
    corpus = corpus_from_arrays(
        languages=[f"l{number}" for number in range(num_languages)],
        example_passage=np.arange(500),
        example_cell=np.zeros(500, np.int32),
        cell_questions=everything,
        cell_passages=everything,
        passage_languages=has,
    )
    made = negatives.PassagesByLanguage(corpus)
    assert made.count.tolist() == has.sum(axis=0).tolist()
    numbers = np.concatenate([np.arange(count) for count in made.count])
    languages = np.repeat(np.arange(num_languages), made.count)
    found = made.passages(numbers, languages)
    for language in range(num_languages):
        own = found[languages == language]
        assert sorted(own.tolist()) == np.flatnonzero(has[:, language]).tolist()
        if has[:, language].all():
            assert own.tolist() == list(range(500))


def test_no_list_is_made_where_every_passage_has_the_language_or_nothing_is_filled() -> None:
    corpus = parallel_corpus(200, 3, 3)
    plan = plan_of(corpus, 2)
    assert plan.batch(0).negative_filled.all()
    assert "_by_set" not in vars(plan._negatives._by_language)
    full = parallel_corpus(200, 3, 3, most_negatives=0)
    without = plan_of(full, 0)
    without.batch(0)
    assert "_by_language" not in vars(without._negatives)


def test_filled_negatives_come_evenly_from_the_language() -> None:
    """Twelve languages with passages of their own: every passage of a language is as likely."""
    languages = np.eye(12, dtype=bool)
    own = np.repeat(np.arange(12), 40)
    corpus = corpus_from_arrays(
        languages=[f"l{number}" for number in range(12)],
        example_passage=np.arange(480),
        example_cell=own.astype(np.int32),
        cell_questions=languages,
        cell_passages=languages,
    )
    plan = plan_of(corpus, 4, alpha=1.0)
    counts = np.zeros(480, np.int64)
    for step in range(600):
        batch = plan.batch(step)
        check(corpus, batch)
        np.add.at(counts, batch.negative.ravel(), 1)
    drawn = counts.reshape(12, 40)
    expected = np.repeat(drawn.sum(axis=1, keepdims=True) / 40, 40, axis=1)
    assert chisquare(drawn.ravel(), expected.ravel(), ddof=11).pvalue > 1e-4


def test_a_row_whose_group_holds_nearly_the_whole_language() -> None:
    everything = np.ones((1, 2), bool)
    group = np.concatenate([np.zeros(9000, np.int64), np.arange(1, 9)])
    corpus = corpus_from_arrays(
        languages=["en", "fi"],
        example_passage=np.arange(len(group)),
        example_cell=np.zeros(len(group), np.int32),
        cell_questions=everything,
        cell_passages=everything,
        example_group=group,
        passage_group=group,
    )
    plan = plan_of(corpus, 3, global_batch_size=8)
    for step in range(20):
        check(corpus, plan.batch(step))


def mined_lists(corpus: Corpus, seed: int) -> NegativeLists:
    """Lists that hold no passage of the corpus' lists."""
    random = np.random.default_rng(seed)
    offsets, group = corpus.negative_offsets, np.asarray(corpus.passage_group)
    rows = []
    for example in range(corpus.num_examples):
        held = corpus.negatives[offsets[example] : offsets[example + 1]]
        free = np.flatnonzero(group != corpus.example_group[example])
        rows.append(random.choice(np.setdiff1d(free, held), 8, replace=False))
    return NegativeLists(np.arange(corpus.num_examples + 1) * 8, np.concatenate(rows).astype(np.int64))


def test_a_phase_draws_from_its_mined_lists_alone() -> None:
    corpus = parallel_corpus(200, 3, 3, seed=1, most_negatives=20)
    plan, phase = plan_of(corpus, 4), Phase(range(3, 6), {"mine_every": 3}, {"3": "a1"})
    lists = mined_lists(corpus, 1)
    mined = plan.in_phase(phase, lists)
    for step in phase.steps:
        batch, before = mined.batch(step), plan.batch(step)
        np.testing.assert_array_equal(batch.example, before.example)
        held = lists.passage.reshape(-1, 8)[batch.example]
        assert not batch.negative_filled.any()
        assert (batch.negative[:, :, None] == held[:, None]).any(axis=2).all()
        np.testing.assert_array_equal(plan.batch(step).negative, before.negative)  # is not changed
    for step in (2, 6):
        with pytest.raises(ValueError, match=f"step {step} is not in the phase"):
            mined.batch(step)


def test_mined_negatives_are_part_of_the_fingerprint_and_not_of_a_resume() -> None:
    plan = plan_of(parallel_corpus(200, 3, 3), 1)
    settings = {"mine_every": 3, "mining": {"count": 4}}
    first = plan.in_phase(Phase(range(3), settings, {}), None)
    second, changed = (first.in_phase(Phase(range(3, 6), settings, {"3": digest}), None) for digest in "ab")
    assert len({made.fingerprint for made in (plan, first, second, changed)}) == 4
    check_resume(json.loads(json.dumps(first.state)), second.state)
    check_resume(json.loads(json.dumps(second.state)), changed.state)
    with pytest.raises(UserError, match="mine_every was 3, is None; mining was"):
        check_resume(second.state, plan.state)
    other = Phase(range(3), {**settings, "mining": {"count": 5}}, {})
    with pytest.raises(UserError, match=r"mining\.count was 4, is 5"):
        check_resume(first.state, plan.in_phase(other, None).state)
