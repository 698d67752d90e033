"""Properties of the batch plan over random corpora, mixtures, seeds and steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from hbt_dist.batching.kinds import KINDS, RowPairs, user_pairs
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import MIXTURES, corpora, corpus_from_arrays, parallel_corpus, ragged_corpus

QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
BATCH = 24


def plan_of(corpus: Corpus, seed: int = 0, **block: object) -> BatchPlan:
    return BatchPlan(corpus, BatchSettings.model_validate({"global_batch_size": BATCH, **block}), seed)


def drawn_plan(corpus: Corpus, seed: int, block: dict[str, object]) -> BatchPlan:
    """The plan of drawn settings; a corpus that is too small for them is no case (and is refused by name)."""
    try:
        return plan_of(corpus, seed, **block)
    except UserError as error:
        if error.location == "batches.global_batch_size":
            reject()
        raise


def check_rows(corpus: Corpus, batch: GlobalBatch, kinds: tuple[str, ...] = KINDS) -> None:
    """What holds for every row of every batch."""
    groups = corpus.example_group[batch.example]
    assert len(np.unique(batch.example)) == len(batch)
    assert len(np.unique(groups)) == len(batch)
    assert len(np.unique(corpus.example_passage[batch.example])) == len(batch)
    cell = corpus.example_cell[batch.example]
    assert corpus.cell_questions[cell, batch.question_language].all()
    assert corpus.cell_passages[cell, batch.passage_language].all()
    same = batch.question_language == batch.passage_language
    for number, kind in enumerate(kinds):
        rows = batch.kind_of_row == number
        if kind not in KINDS:
            check_pairs(corpus, batch, rows, user_pairs(kind, corpus.languages))
        elif kind == "crosslingual":
            assert not same[rows].any()
        elif kind != "any_pair":
            assert same[rows].all()
    for sub_batch in np.unique(batch.sub_batch):
        rows = batch.sub_batch == sub_batch
        assert len(np.unique(batch.kind_of_row[rows])) == 1
        if kinds[batch.kind_of_row[rows][0]] == "monolingual":
            assert len(np.unique(batch.question_language[rows])) == 1


def check_pairs(corpus: Corpus, batch: GlobalBatch, rows: np.ndarray, allowed: RowPairs) -> None:
    """Rows of a kind of the user's own are of its pairs; of one in a sub-batch where it says so."""
    names = np.array(corpus.languages)
    found = [
        (str(asked), str(answering), int(slot))
        for asked, answering, slot in zip(
            names[batch.question_language[rows]],
            names[batch.passage_language[rows]],
            batch.sub_batch[rows],
            strict=True,
        )
    ]
    assert {pair[:2] for pair in found} <= set(allowed.pairs)
    if allowed.one_per_batch:
        assert len(set(found)) == len({slot for *_, slot in found})


def equal(one: GlobalBatch, other: GlobalBatch) -> bool:
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())


@QUICK
@given(corpora(), st.sampled_from(MIXTURES), st.integers(0, 2**40), st.integers(0, 10**6))
def test_every_batch_is_sound_and_the_same_for_all_world_sizes(
    corpus: Corpus, block: dict[str, object], seed: int, step: int
) -> None:
    plan = drawn_plan(corpus, seed, block)
    for one in (step, step + 1, 0):
        batch = plan.batch(one)
        assert len(batch) == BATCH
        check_rows(corpus, batch, plan.kinds)
        for world_size in (1, 2, 3, 4, 8):
            slices = [batch.rank_slice(rank, world_size) for rank in range(world_size)]
            assert {part.kind for part in slices} == {batch.kind}
            for name, value in vars(batch).items():
                if isinstance(value, np.ndarray):
                    joined = np.concatenate([getattr(part, name) for part in slices])
                    np.testing.assert_array_equal(joined, value)


@QUICK
@given(corpora(), st.sampled_from(MIXTURES), st.integers(0, 2**40), st.integers(0, 12))
def test_random_access_equals_sequential_and_resume_sees_the_same_batches(
    corpus: Corpus, block: dict[str, object], seed: int, stop: int
) -> None:
    sequential = drawn_plan(corpus, seed, block)
    batches = [sequential.batch(step) for step in range(stop + 4)]
    resumed = drawn_plan(corpus, seed, block)  # a plan that has drawn nothing before
    assert resumed.fingerprint == sequential.fingerprint
    for step in (stop, stop + 1, stop + 3):
        assert equal(resumed.batch(step), batches[step])


def test_random_access_across_blocks_of_counted_steps() -> None:
    corpus = parallel_corpus()
    late = plan_of(corpus).batch(123_456)
    walked = plan_of(corpus)
    for step in (0, 16_383, 16_384, 16_385, 50_000, 123_455):
        walked.batch(step)
    assert equal(walked.batch(123_456), late)


def test_position_in_a_stream_counts_the_draws_before() -> None:
    plan = plan_of(ragged_corpus(3), alpha=0.5)
    drawn = np.concatenate([plan.mixture.streams(np.array([step])) for step in range(40)])
    for step in (0, 1, 17, 40):
        want = np.bincount(drawn[:step].ravel(), minlength=plan.mixture.num_streams)
        np.testing.assert_array_equal(plan.mixture.draws_before(step), want)


@settings(QUICK, max_examples=12)
@given(
    st.integers(1, 9),
    st.integers(150, 300),
    st.sampled_from(["monolingual", "crosslingual", "mixed_monolingual", "any_pair"]),
    st.integers(0, 2**30),
)
def test_each_example_once_per_epoch(most: int, num_passages: int, kind: str, seed: int) -> None:
    corpus = parallel_corpus(num_passages, most, 2, seed=seed)
    block = {"mixture": [{"kind": kind, "languages": ["en"] if kind == "monolingual" else None}]}
    plan = plan_of(corpus, seed, **block)
    assert len(plan.streams) == 1
    order = plan.streams[0].order
    assert (order.visits == order.size).all(), (
        "groups are small enough here for every example to have its turn"
    )
    length = corpus.num_examples // BATCH
    assert plan.streams[0].draws_per_epoch.tolist() == [length]
    tails = []
    for epoch in range(3):
        seen = np.concatenate(
            [plan.batch(step).example for step in range(epoch * length, (epoch + 1) * length)]
        )
        assert len(np.unique(seen)) == len(seen) == length * BATCH
        tails.append(frozenset(range(corpus.num_examples)) - set(seen.tolist()))
    if len(tails[0]) > 3:
        assert len(set(tails)) > 1, "the tail that an epoch leaves out is another one each time"


def test_groups_that_are_too_large_take_turns_over_epochs() -> None:
    passage = np.concatenate([np.zeros(100, np.int64), np.arange(1, 31)])  # one passage with 100 questions
    everything = np.ones((1, 2), bool)
    corpus = corpus_from_arrays(
        languages=["en", "fi"],
        example_passage=passage,
        example_cell=np.zeros(len(passage), np.int32),
        cell_questions=everything,
        cell_passages=everything,
    )
    plan = BatchPlan(corpus, BatchSettings(global_batch_size=10, alpha=0.0), 5)
    visits = int(plan.streams[0].order.visits.max())
    assert 1 <= visits <= 4
    per_epoch = int(plan.streams[0].draws_per_epoch[0])
    counts = np.zeros(len(passage), np.int64)
    epochs = -(-100 // visits) * 2
    for step in range(per_epoch * epochs):
        batch = plan.batch(step)
        check_rows(corpus, batch)
        counts[batch.example] += 1
    assert counts[:100].min() >= 1
    assert counts[:100].max() <= counts[:100].min() + 2


def test_a_batch_as_large_as_the_number_of_groups() -> None:
    corpus = parallel_corpus(48, 5, 2)
    plan = BatchPlan(corpus, BatchSettings(global_batch_size=48), 1)
    for step in range(20):
        check_rows(corpus, plan.batch(step))
    with pytest.raises(UserError, match="only 48 passages") as caught:
        BatchPlan(corpus, BatchSettings(global_batch_size=49), 1)
    assert "global_batch_size" in caught.value.location
    assert "48 at most" in caught.value.remedy


@pytest.mark.slow
@QUICK
@given(st.integers(0, 2**30), st.integers(40, 118))
def test_tight_ragged_corpora_are_refused_or_served(seed: int, batch_size: int) -> None:
    corpus = ragged_corpus(seed, num_passages=120, num_cells=8, most_questions=2)
    block = {
        "global_batch_size": batch_size,
        "mixture": {"crosslingual": 1, "any_pair": 1},
        "mixing": "shares",
    }
    try:
        plan = BatchPlan(corpus, BatchSettings.model_validate(block), seed)
    except UserError:
        return  # which is tested above; here: whatever is not refused is served
    for step in range(6):
        check_rows(corpus, plan.batch(step))


def test_each_example_at_most_once_per_epoch_of_its_stratum_in_ragged_data() -> None:
    corpus = ragged_corpus(11, num_passages=3000, most_questions=1, num_cells=4, num_datasets=1)
    plan = plan_of(corpus, 3, alpha=0.0)
    stream = plan.streams[0]
    assert len(stream.strata) > 1
    for stratum, length in enumerate(stream.draws_per_epoch.tolist()):
        rows = [stream.draw(number) for number in range(length)]
        taken = np.concatenate([one.pool_row[one.stratum == stratum] for one in rows])
        taken = taken[taken >= 0]
        assert len(np.unique(taken)) == len(taken)
        assert len(taken) > 0.9 * stream.strata[stratum].num_examples - BATCH


def test_other_seeds_give_other_batches() -> None:
    corpus = parallel_corpus()
    first, second = plan_of(corpus, 1, alpha=0.0).batch(0), plan_of(corpus, 2, alpha=0.0).batch(0)
    assert len(np.intersect1d(first.example, second.example)) < BATCH / 2


def test_alignment_data_never_give_rows_in_one_language() -> None:
    everything = np.ones((1, 3), bool)
    corpus = corpus_from_arrays(
        languages=["en", "fi", "sv"],
        example_passage=np.arange(200),
        example_cell=np.zeros(200, np.int32),
        cell_questions=everything,
        cell_passages=everything,
        example_dataset=np.repeat([0, 1], 100).astype(np.int32),
        datasets=["questions", "answers"],
        alignment=[True, False],
    )
    plan = plan_of(corpus, alpha=0.5)
    datasets = {"monolingual": set[int](), "crosslingual": set[int]()}
    for step in range(30):
        batch = plan.batch(step)
        check_rows(corpus, batch)
        datasets[batch.kind] |= set(corpus.example_dataset[batch.example].tolist())
    assert datasets == {"monolingual": {1}, "crosslingual": {0, 1}}
    any_pair = plan_of(corpus, mixture={"any_pair": 1})
    for step in range(10):
        batch = any_pair.batch(step)
        same = batch.question_language == batch.passage_language
        assert (corpus.example_dataset[batch.example[same]] == 1).all()


def test_languages_are_those_that_rows_are_drawn_in() -> None:
    corpus = parallel_corpus()
    assert corpus.languages == ("en", "fi", "ar", "es")
    english = [{"kind": "monolingual", "languages": ["en"]}]
    assert plan_of(corpus, mixture=english).languages == ("en",)
    assert plan_of(corpus, alpha=0.5).languages == corpus.languages
    assert plan_of(corpus, alpha=1.0, languages={"es": 1, "fi": 2}).languages == ("fi", "es")
    none = {"kind": "crosslingual", "weight": 0.0}
    assert plan_of(corpus, mixture=[*english, none]).languages == ("en",)
    late = {
        "kind": "crosslingual",
        "languages": ["ar", "es"],
        "weight": {"schedule": "steps", "values": {0: 0.0, 10: 1.0}},
    }
    plan = plan_of(corpus, mixture=[*english, late])
    assert plan.languages == ("en", "ar", "es")
    drawn = {int(code) for step in range(40) for code in plan.batch(step).question_language}
    assert {corpus.languages[code] for code in drawn} == set(plan.languages)


def test_one_dataset_per_batch() -> None:
    corpus = parallel_corpus(400, 3, 3, dataset_sizes=(3, 1))
    plan = plan_of(corpus, alpha=0.5, datasets={"per": "batch"})
    seen = set()
    for step in range(60):
        batch = plan.batch(step)
        check_rows(corpus, batch)
        datasets = set(corpus.example_dataset[batch.example].tolist())
        assert len(datasets) == 1
        seen |= datasets
    assert seen == {0, 1}


@pytest.mark.parametrize(
    ("rows", "world_size", "remedy"),
    [(256, 3, "255 or 258 rows, or 2 or 4"), (10, 4, "8 or 12 rows, or 2 or 5")],
)
def test_rows_that_do_not_divide_name_the_nearest_sizes(rows: int, world_size: int, remedy: str) -> None:
    plan = BatchPlan(parallel_corpus(), BatchSettings(global_batch_size=rows), 0)
    with pytest.raises(UserError) as caught:
        plan.batch(0).rank_slice(0, world_size)
    assert f"{rows} rows do not divide among {world_size} processes" in caught.value.problem
    assert remedy in caught.value.remedy
