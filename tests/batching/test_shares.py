"""Realised shares of kinds, languages, pairs and datasets against the configured ones."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare

from hbt_dist.batching.kinds import KINDS
from hbt_dist.batching.mixture import Mixture, apportion, slots_of
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings, DatasetSettings
from hbt_dist.batching.shares import Cells, dataset_shares, joint_share
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import corpus_from_arrays, parallel_corpus, ragged_corpus

BATCH = 32
IMPROBABLE = 1e-5  # per comparison; the draws are fixed by the seed, so a passing test always passes


def plan_of(corpus: Corpus, **block: object) -> BatchPlan:
    return BatchPlan(corpus, BatchSettings.model_validate({"global_batch_size": BATCH, **block}), 17)


def assert_binomial(successes: int, trials: int, probability: float) -> None:
    if probability in (0.0, 1.0):
        assert successes == trials * probability
    else:
        assert binomtest(successes, trials, probability).pvalue > IMPROBABLE, (successes, trials, probability)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_alpha(alpha: float) -> None:
    plan = plan_of(parallel_corpus(), alpha=alpha)
    drawn = plan.mixture.streams(np.arange(20_000))[:, 0]
    kinds = np.array([stream.shares.entry for stream in plan.streams])[drawn]
    assert_binomial(int((kinds == 0).sum()), 20_000, alpha)
    for step in (0, 7, 19_999):
        assert plan.batch(step).kind == ("monolingual" if kinds[step] == 0 else "crosslingual")


def test_kinds_are_independent_from_step_to_step() -> None:
    drawn = plan_of(parallel_corpus(), alpha=0.5).mixture.streams(np.arange(20_000))[:, 0] > 3
    assert_binomial(int((drawn[1:] == drawn[:-1]).sum()), 19_999, 0.5)


@pytest.mark.parametrize(
    ("rule", "want"),
    [
        ("uniform", [1, 1, 1, 1]),
        ({"en": 5, "fi": 3, "es": 2}, [5, 3, 0, 2]),
        ({"temperature": 0.0}, [1, 1, 1, 1]),
    ],
)
def test_languages_of_monolingual_batches(rule: object, want: list[float]) -> None:
    plan = plan_of(parallel_corpus(), alpha=1.0, languages=rule)
    languages = np.array([plan.streams[index].shares.joint.question[0] for index in range(len(plan.streams))])
    drawn = languages[plan.mixture.streams(np.arange(20_000))[:, 0]]
    for language, weight in enumerate(want):
        assert_binomial(int((drawn == language).sum()), 20_000, weight / sum(want))
    assert plan.batch(3).question_language[0] == drawn[3]


@pytest.mark.parametrize("rule", ["uniform", {"en-fi": 4, "fi-en": 2, "es-ar": 1}])
@pytest.mark.parametrize("ragged", [False, True])
def test_pairs_of_crosslingual_rows(rule: object, ragged: bool) -> None:
    corpus = ragged_corpus(5, num_cells=4) if ragged else parallel_corpus()
    if ragged and isinstance(rule, dict):
        rule = {"en-fi": 4, "fi-en": 2}
    plan = plan_of(corpus, alpha=0.0, pairs=rule)
    settings = BatchSettings.model_validate({"global_batch_size": BATCH, "alpha": 0.0, "pairs": rule})
    joint = joint_share(corpus, Cells.of(corpus), settings, 1)
    steps = 400
    counts = np.zeros((len(corpus.languages),) * 2, np.int64)
    for step in range(steps):
        batch = plan.batch(step)
        np.add.at(counts, (batch.question_language, batch.passage_language), 1)
    assert counts.sum() == steps * BATCH
    weights = joint.share.sum(axis=0)
    if not ragged:
        labels = [
            f"{corpus.languages[q]}-{corpus.languages[p]}"
            for q, p in zip(joint.question, joint.passage, strict=True)
        ]
        want = np.array([rule.get(label, 0) if isinstance(rule, dict) else 1.0 for label in labels], float)
        np.testing.assert_allclose(weights, want / want.sum())
    for question, passage, weight in zip(joint.question, joint.passage, weights, strict=True):
        assert_binomial(int(counts[question, passage]), steps * BATCH, float(weight))
    assert counts.sum() == counts[joint.question, joint.passage].sum()


def test_any_pair_draws_both_languages_on_their_own() -> None:
    corpus = parallel_corpus()
    plan = plan_of(corpus, mixture={"any_pair": 1})
    counts = np.zeros((4, 4), np.int64)
    for step in range(300):
        batch = plan.batch(step)
        np.add.at(counts, (batch.question_language, batch.passage_language), 1)
    assert chisquare(counts.ravel()).pvalue > IMPROBABLE


def test_pairs_do_not_depend_on_the_place_in_the_batch() -> None:
    plan = plan_of(parallel_corpus(), alpha=0.0)
    first, second = np.zeros((4, 4)), np.zeros((4, 4))
    for step in range(400):
        batch = plan.batch(step)
        for half, part in ((first, slice(None, BATCH // 2)), (second, slice(BATCH // 2, None))):
            np.add.at(half, (batch.question_language[part], batch.passage_language[part]), 1)
    for half in (first, second):
        assert chisquare(half[~np.eye(4, dtype=bool)]).pvalue > IMPROBABLE


def test_an_example_meets_all_pairs_over_the_epochs() -> None:
    corpus = parallel_corpus(BATCH, 1, 4)
    plan = plan_of(corpus, alpha=0.0)
    pairs = np.zeros((corpus.num_examples, 16), np.int64)
    for step in range(60):  # an epoch is one batch here; 12 pairs
        batch = plan.batch(step)
        np.add.at(pairs, (batch.example, batch.question_language * 4 + batch.passage_language), 1)
    off_diagonal = pairs[:, [q * 4 + p for q in range(4) for p in range(4) if p != q]]
    assert off_diagonal.min() >= 3
    assert off_diagonal.max() <= 7


@pytest.mark.parametrize("order", ["language_first", "dataset_first"])
def test_the_paper_s_contradiction_is_a_setting(order: str) -> None:
    """A large dataset without Finnish, a small one with it."""
    cells = np.array([[True, True, False], [True, True, True]])
    cell = np.repeat([0, 1], [9000, 1000]).astype(np.int32)
    corpus = corpus_from_arrays(
        languages=["en", "ar", "fi"],
        example_passage=np.arange(10_000),
        example_cell=cell,
        cell_questions=cells,
        cell_passages=cells,
        example_dataset=cell,
        datasets=["large", "small"],
    )
    plan = plan_of(corpus, alpha=0.0, datasets={"order": order})
    finnish = small = total = 0
    for step in range(400):
        batch = plan.batch(step)
        finnish += int(((batch.question_language == 2) | (batch.passage_language == 2)).sum())
        small += int(corpus.example_dataset[batch.example].sum())
        total += len(batch)
    if order == "language_first":  # 4 of the 6 pairs have Finnish, all of them from the small set
        assert_binomial(finnish, total, 4 / 6)
        assert small / total == pytest.approx(4 / 6 + 2 / 6 * 0.1, abs=0.01)
    else:
        assert small / total == pytest.approx(0.1, abs=0.01)
        assert_binomial(finnish, total, 0.1 * 4 / 6)


def test_strata_follow_their_shares_closely() -> None:
    plan = plan_of(ragged_corpus(8, num_cells=7), alpha=0.0)
    stream = plan.streams[0]
    share = np.diff(stream.bounds) / 2.0**32 / BATCH
    counts = stream.counts_before(np.repeat(np.arange(2000)[:, None], len(share), axis=1))
    each = np.diff(counts, axis=0)
    assert (each >= 0).all()
    assert (each.sum(axis=1) == BATCH).all()
    assert (np.abs(each - share * BATCH) < 1 + 1e-6).all()
    assert (np.abs(counts - np.arange(2000)[:, None] * share * BATCH) < 4).all()


def test_schedules() -> None:
    corpus = parallel_corpus()
    ramp = {"schedule": "linear", "start": 1.0, "end": 0.0, "from_step": 100, "over_steps": 200}
    plan = plan_of(corpus, alpha=ramp)
    steps = np.array([0, 100, 200, 250, 300, 5000])
    np.testing.assert_allclose(plan.mixture.probabilities(steps)[:, 0], [1, 1, 0.5, 0.25, 0, 0])
    assert {plan.batch(step).kind for step in range(0, 100, 9)} == {"monolingual"}
    assert {plan.batch(step).kind for step in range(300, 400, 9)} == {"crosslingual"}
    cosine = plan_of(corpus, alpha={"schedule": "cosine", "start": 0.0, "end": 0.8, "over_steps": 100})
    np.testing.assert_allclose(cosine.mixture.probabilities(np.array([0, 50, 100]))[:, 0], [0, 0.4, 0.8])
    stairs = plan_of(corpus, alpha={"schedule": "steps", "values": {0: 1.0, 10: 0.5, 20: 0.0}})
    np.testing.assert_allclose(
        stairs.mixture.probabilities(np.array([0, 9, 10, 19, 20, 99]))[:, 0], [1, 1, 0.5, 0.5, 0, 0]
    )
    np.testing.assert_allclose(stairs.mixture.probabilities(np.arange(30)).sum(axis=1), 1)


def test_shares_inside_each_batch() -> None:
    mixture = [
        {"kind": "monolingual", "weight": 0.5, "sub_batches": 2},
        {"kind": "crosslingual", "weight": 0.3},
        {"kind": "mixed_monolingual", "weight": 0.2},
    ]
    plan = plan_of(parallel_corpus(), mixture=mixture, mixing="shares")
    want = apportion(BATCH, np.array([0.5, 0.3, 0.2]))
    for step in range(20):
        batch = plan.batch(step)
        assert batch.kind == "shares"
        kinds = np.bincount(batch.kind_of_row, minlength=len(KINDS))
        assert kinds[:3].tolist() == want.tolist()
        assert np.bincount(batch.sub_batch).tolist() == [8, 8, *want[1:].tolist()]


def test_scheduled_shares_inside_each_batch() -> None:
    ramp = {"schedule": "linear", "start": 0.75, "end": 0.25, "over_steps": 10}
    plan = plan_of(parallel_corpus(), alpha=ramp, mixing="shares")
    assert [slot.max_rows for slot in plan.mixture.slots] == [24, 24]
    for step, want in ((0, 24), (5, 16), (10, 8), (50, 8)):
        assert int((plan.batch(step).kind_of_row == 0).sum()) == want


def test_apportion() -> None:
    assert apportion(10, np.array([1.0, 1.0, 1.0])).tolist() == [4, 3, 3]
    assert apportion(7, np.array([0.0, 2.0])).tolist() == [0, 7]
    random = np.random.default_rng(0)
    for _ in range(50):
        weights = random.random(5)
        counts = apportion(1000, weights)
        assert counts.sum() == 1000
        assert (np.abs(counts - 1000 * weights / weights.sum()) < 1).all()


def test_slots_hold_the_largest_share_that_a_schedule_reaches() -> None:
    block = {
        "global_batch_size": 100,
        "mixing": "shares",
        "mixture": [
            {"kind": "monolingual", "weight": {"schedule": "steps", "values": {0: 1, 5: 3}}},
            {"kind": "crosslingual", "weight": 1},
        ],
    }
    settings = BatchSettings.model_validate(block)
    assert [slot.max_rows for slot in slots_of(settings)] == [75, 50]
    mixture = Mixture(settings, [np.ones(1), np.ones(1)], 0)
    assert [mixture.rows_of_slots(step).tolist() for step in (0, 4, 5)] == [[50, 50], [50, 50], [75, 25]]


def test_dataset_shares() -> None:
    names = ("a", "b", "c")
    sizes = np.array([900, 90, 10])
    np.testing.assert_allclose(dataset_shares(sizes, DatasetSettings(), names), [0.9, 0.09, 0.01])
    np.testing.assert_allclose(
        dataset_shares(sizes, DatasetSettings(temperature=0.5), names), np.sqrt(sizes) / np.sqrt(sizes).sum()
    )
    np.testing.assert_allclose(dataset_shares(sizes, DatasetSettings(temperature=0.0), names), [1 / 3] * 3)
    capped = dataset_shares(sizes, DatasetSettings(max_share=0.6), names)
    np.testing.assert_allclose(capped, [0.6, 0.36, 0.04])  # the others keep their proportion, 9 to 1
    floored = dataset_shares(sizes, DatasetSettings(min_share=0.1), names)
    np.testing.assert_allclose(floored, [0.8, 0.1, 0.1])
    explicit = DatasetSettings(weights={"a": 1, "b": 1, "c": 2})
    np.testing.assert_allclose(dataset_shares(sizes, explicit, names), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(dataset_shares(np.array([0, 5, 5]), explicit, names), [0, 1 / 3, 2 / 3])
    np.testing.assert_allclose(
        dataset_shares(np.array([0, 5, 0]), DatasetSettings(max_share=0.3), names), [0, 1, 0]
    )


def test_realised_dataset_shares() -> None:
    corpus = parallel_corpus(600, 2, 3, dataset_sizes=(8, 1, 1))
    settings = DatasetSettings(temperature=0.5, max_share=0.4)
    sizes = np.bincount(corpus.example_dataset)
    want = dataset_shares(sizes, settings, corpus.datasets)
    plan = plan_of(corpus, alpha=0.5, datasets=settings.model_dump())
    counts = np.zeros(3)
    for step in range(200):
        counts += np.bincount(corpus.example_dataset[plan.batch(step).example], minlength=3)
    np.testing.assert_allclose(counts / counts.sum(), want, atol=0.003)
