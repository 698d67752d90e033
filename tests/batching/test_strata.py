"""Data that is not fully parallel: rare sets of languages beside large ones."""

from __future__ import annotations

import hashlib
import re
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_dist.batching.inspection import inspect, shares_missed
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import check_resume
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.run_file import load_run
from tests.batching.corpora import CODES, corpus_from_arrays, parallel_corpus, ragged_corpus
from tests.batching.test_plan import check_rows
from tests.batching.test_shares import assert_binomial

KINDS = [
    {"alpha": 0.5},
    {"alpha": 0.0},
    {"mixture": {"any_pair": 1}},
    {"mixture": {"mixed_monolingual": 1}},
    {"alpha": 0.5, "mixing": "shares"},
]
OVER_B = {"da-bg": 1, "bg-da": 1, "bg-cs": 1, "cs-bg": 1}


def plan_of(corpus: Corpus, rows: int, seed: int = 0, **block: object) -> BatchPlan:
    return BatchPlan(corpus, BatchSettings.model_validate({"global_batch_size": rows, **block}), seed)


def corpus_of(sets: list[tuple[str, int]], languages: str = "abc") -> Corpus:
    """Examples whose question and passage have the same languages: [("ab", 3)] is three with a and b."""
    cells = np.array([[name in held for name in languages] for held, _ in sets])
    cell = np.repeat(np.arange(len(sets)), [count for _, count in sets])
    return corpus_from_arrays(
        languages=[{"a": "da", "b": "bg", "c": "cs"}[name] for name in languages],
        example_passage=np.arange(len(cell)),
        example_cell=cell.astype(np.int32),
        cell_questions=cells,
        cell_passages=cells,
    )


def corpus_with_holes(num_passages: int = 3000, num_languages: int = 6, missing: float = 0.02) -> Corpus:
    """Two questions per passage; every text is missing with the same probability."""
    random = np.random.default_rng(5)
    passage = np.repeat(np.arange(num_passages), 2)
    has_passage = random.random((num_passages, num_languages)) > missing
    has_question = random.random((len(passage), num_languages)) > missing
    both = np.hstack([has_question, has_passage[passage]])
    cells, cell = np.unique(both, axis=0, return_inverse=True)
    return corpus_from_arrays(
        languages=CODES[:num_languages],
        example_passage=passage,
        example_cell=cell.astype(np.int32),
        cell_questions=cells[:, :num_languages],
        cell_passages=cells[:, num_languages:],
        passage_languages=has_passage,
    )


def assert_pairs_as_configured(plan: BatchPlan, steps: int) -> None:
    """Pairs of the crosslingual rows, against their shares."""
    (stream,) = plan.streams
    joint = stream.shares.joint
    size = len(plan.corpus.languages)
    counts = np.zeros((size, size), np.int64)
    for step in range(steps):
        batch = plan.batch(step)
        np.add.at(counts, (batch.question_language, batch.passage_language), 1)
    weights = joint.share.sum(axis=0)
    for question, passage, weight in zip(joint.question, joint.passage, weights, strict=True):
        assert_binomial(int(counts[question, passage]), int(counts.sum()), float(weight))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**30), st.integers(1, 40), st.integers(1, 60), st.integers(0, 10**6))
def test_a_stratum_takes_its_width_rounded_down_or_up(
    seed: int, num_cells: int, rows: int, late: int
) -> None:
    """And so do neighbours together; by brute force over many draws, with whole numbers of any size."""
    corpus = ragged_corpus(seed, num_cells=num_cells, num_languages=5)
    stream = BatchPlan(corpus, BatchSettings(global_batch_size=1, alpha=0.0), seed).streams[0]
    bounds = np.round(stream.bounds / stream.bounds[-1] * rows * 2**32).astype(np.int64).tolist()
    object.__setattr__(stream, "bounds", np.array(bounds))
    object.__setattr__(stream, "rows", rows)
    strata = len(stream.strata)
    draws = np.concatenate([np.arange(1500), late + np.arange(500)])
    before = stream.counts_before(np.repeat(draws[:, None], strata, axis=1))
    after = stream.counts_before(np.repeat(draws[:, None] + 1, strata, axis=1))
    counts = after - before
    assert (counts.sum(axis=1) == rows).all()
    for first, last in combinations(range(strata + 1), 2):
        width = bounds[last] - bounds[first]
        together = counts[:, first:last].sum(axis=1)
        assert together.min() >= width // 2**32
        assert together.max() <= -(-width // 2**32)
    if strata > 1:
        for place in (0, 7, 1499, 1999):
            shift = (stream.key % 2**32) + 2_654_435_769 * int(draws[place])
            ends = [(shift % 2**32 + bound) // 2**32 for bound in bounds]
            assert counts[place].tolist() == [high - low for low, high in pairwise(ends)]


@pytest.mark.parametrize("block", KINDS)
@pytest.mark.parametrize("rows", [8, 100, 1024])
def test_a_corpus_with_two_percent_of_its_texts_missing(block: dict[str, object], rows: int) -> None:
    corpus = corpus_with_holes()
    plan = plan_of(corpus, rows, 3, **block)
    assert max(len(stream.strata) for stream in plan.streams) > 20
    again = plan_of(corpus, rows, 3, **block)
    for step in (0, 1, 2, 40, 12_345):
        batch = plan.batch(step)
        check_rows(corpus, batch)
        np.testing.assert_array_equal(again.batch(step).example, batch.example)
        joined = [batch.rank_slice(rank, 4).example for rank in range(4)]
        np.testing.assert_array_equal(np.concatenate(joined), batch.example)


def test_pairs_of_a_corpus_with_holes_are_as_configured() -> None:
    assert_pairs_as_configured(plan_of(corpus_with_holes(), 128, 1, alpha=0.0), 100)


@pytest.mark.parametrize("few", [1, 2, 3, 7])
def test_a_rare_set_of_languages_is_visited_evenly(few: int) -> None:
    """Rows counted over the draws give every example its turn, whatever the width of the stratum."""
    corpus = corpus_of([("ab", 900), ("bc", 900), ("abc", few)])
    plan = plan_of(corpus, 16, 2, alpha=0.0, pairs=OVER_B)
    stream = plan.streams[0]
    rare = int(stream.stratum_of_cell[2])
    assert stream.few.tolist() == [stratum == rare for stratum in range(len(stream.strata))]
    visits = np.zeros(corpus.num_examples, np.int64)
    steps = 1500
    for step in range(steps):
        batch = plan.batch(step)
        check_rows(corpus, batch)
        visits[batch.example] += 1
    own = visits[1800:]
    assert own.max() - own.min() <= 1
    width = float(np.diff(stream.bounds)[rare]) / 2**32
    assert own.sum() == pytest.approx(width * steps, abs=3)


def test_rows_beyond_a_stratum_keep_their_pair() -> None:
    """One example with all languages, asked for more than once per batch; others can take its rows."""
    corpus = corpus_of([("ab", 12), ("bc", 12), ("abc", 1)])
    plan = plan_of(corpus, 16, 4, alpha=0.0, pairs=OVER_B)
    stream = plan.streams[0]
    width = np.diff(stream.bounds) / 2**32
    assert width[stream.stratum_of_cell[2]] > 1
    for step in range(20):
        check_rows(corpus, plan.batch(step))
    assert_pairs_as_configured(plan, 400)


def test_two_rare_sets_with_one_group_between_them() -> None:
    """They can be asked for both in one batch, but cannot meet in it."""
    questions = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [1, 1, 1]], bool)
    passages = np.array([[1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 1, 0]], bool)
    corpus = corpus_from_arrays(
        languages=["da", "bg", "cs"],
        example_passage=np.concatenate([[0, 0], np.arange(1, 61)]),
        example_cell=np.concatenate([[2, 3], np.repeat([0, 1], 30)]).astype(np.int32),
        cell_questions=questions,
        cell_passages=passages,
        passage_languages=np.ones((61, 3), bool),
    )
    plan = plan_of(corpus, 40, 1, alpha=0.0, pairs=OVER_B)
    rare = [int(plan.streams[0].stratum_of_cell[cell]) for cell in (2, 3)]
    assert rare[0] != rare[1]
    asked = [np.isin(rare, plan.streams[0].draw(number).stratum).all() for number in range(200)]
    assert sum(asked) > 20
    for step in range(200):
        check_rows(corpus, plan.batch(step))


def remedies(error: UserError, block: dict[str, object]) -> list[dict[str, object]]:
    """The settings that a refusal names."""
    found: list[dict[str, object]] = []
    if match := re.search(r"lower global_batch_size to ([\d,]+) at most", error.remedy):
        size = int(match[1].replace(",", ""))
        found += [{**block, "global_batch_size": size}, {**block, "global_batch_size": max(size // 2, 1)}]
    if "datasets.per: row" in error.remedy:
        found.append({**block, "datasets": {"per": "row"}})
    return found


def test_a_batch_with_more_rows_than_groups_is_refused_with_remedies_that_work() -> None:
    corpus = corpus_of([("ab", 40), ("bc", 5)])
    block: dict[str, object] = {"global_batch_size": 64, "alpha": 0.0}
    with pytest.raises(UserError) as caught:
        BatchPlan(corpus, BatchSettings.model_validate(block), 0)
    assert caught.value.location == "batches.global_batch_size"
    assert "64 crosslingual rows (da-bg, bg-da, bg-cs, cs-bg)" in caught.value.problem
    assert "only 45 passages" in caught.value.problem
    assert "to 45 at most" in caught.value.remedy
    alternatives = remedies(caught.value, block)
    assert len(alternatives) == 2
    for settings_block in alternatives:
        plan = BatchPlan(corpus, BatchSettings.model_validate(settings_block), 0)
        for step in range(10):
            check_rows(corpus, plan.batch(step))
    with pytest.raises(UserError):
        plan_of(corpus, 46, alpha=0.0)


def test_pairs_below_their_share_are_reported() -> None:
    corpus = corpus_of([("ab", 500), ("bc", 5)])
    plan = plan_of(corpus, 64, alpha=0.0)
    (line,) = shares_missed(plan, 40)
    assert re.match(
        r"(bg-cs|cs-bg) gets 2\.\d rows per batch instead of 16\.0: too few of its passages", line
    )
    assert line in inspect(plan, 40).plan[2].note
    assert shares_missed(plan_of(corpus, 8, alpha=0.0), 40) == []
    assert shares_missed(plan_of(corpus, 64, alpha=0.0, pairs="size"), 40) == []


@pytest.mark.parametrize("kind", ["monolingual", "crosslingual"])
def test_a_batch_of_one_row_is_no_remedy(kind: str) -> None:
    """It would be refused as well, having nothing to contrast with, unless it has hard negatives."""
    block: dict[str, object] = {"global_batch_size": 64, "alpha": 1.0 if kind == "monolingual" else 0.0}
    corpus = corpus_of([("ab", 1)])
    with pytest.raises(UserError) as caught:
        BatchPlan(corpus, BatchSettings.model_validate(block), 0)
    assert "has only 1 passage that may meet" in caught.value.problem
    assert caught.value.remedy == "add data: a batch needs at least two such passages"
    block["hard_negatives"] = {"count": 1}
    with pytest.raises(UserError, match="lower global_batch_size to 1 at most"):
        BatchPlan(corpus, BatchSettings.model_validate(block), 0)


def test_a_dataset_that_is_too_small_for_its_weight_is_refused() -> None:
    corpus = parallel_corpus(400, 3, 3, dataset_sizes=(40, 1))
    weights = {"datasets": {"weights": {"set0": 1, "set1": 1}}}
    assert plan_of(corpus, 64, alpha=0.0, **weights).batch(0)
    block: dict[str, object] = {"global_batch_size": 64, "alpha": 0.0, "datasets": {"per": "batch"}}
    with pytest.raises(UserError, match="set1 has only") as caught:
        BatchPlan(corpus, BatchSettings.model_validate(block), 0)
    assert "datasets.per: row" in caught.value.remedy
    for one in remedies(caught.value, block):
        check_rows(corpus, BatchPlan(corpus, BatchSettings.model_validate(one), 0).batch(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from(KINDS), st.integers(8, 200))
def test_every_remedy_works(seed: int, block: dict[str, object], rows: int) -> None:
    corpus = ragged_corpus(seed, num_passages=150, num_cells=14, num_languages=5, holds=0.4)
    whole: dict[str, object] = {"global_batch_size": rows, **block}
    try:
        plan = BatchPlan(corpus, BatchSettings.model_validate(whole), 0)
    except UserError as error:
        tried = remedies(error, whole)
        only_more_data = "a batch needs at least two" in error.remedy
        assert tried or only_more_data
        for one in tried:
            check_rows(corpus, BatchPlan(corpus, BatchSettings.model_validate(one), 0).batch(3))
        return
    for step in range(3):
        check_rows(corpus, plan.batch(step))


#: Fields of a batch in the order in which the digests were recorded.
DIGESTED = [
    "step",
    "kind",
    "example",
    "question_language",
    "passage_language",
    "negative",
    "negative_language",
    "negative_filled",
    "sub_batch",
    "kind_of_row",
]


def digest(plan: BatchPlan, steps: int) -> str:
    content = hashlib.sha256()
    for batch in map(plan.batch, range(steps)):
        for value in (getattr(batch, name) for name in DIGESTED):
            content.update(value.tobytes() if isinstance(value, np.ndarray) else str(value).encode())
    return content.hexdigest()[:16]


@pytest.mark.slow
def test_the_batches_of_known_plans(tmp_path: Path) -> None:
    """Digests of the first 200 steps: a change of them needs a new PLAN_VERSION."""
    run = load_run("quickstart")
    plans = {
        "sample": BatchPlan(build_corpus(run.data, tmp_path), run.batches, run.seed),
        "parallel": plan_of(parallel_corpus(dataset_sizes=(5, 3, 1)), 24, 1, alpha=0.5),
        "ragged": plan_of(ragged_corpus(4, num_passages=5000), 24, 2, alpha=0.3),
        "filled": plan_of(parallel_corpus(most_negatives=2), 24, 3, hard_negatives={"count": 3}),
        "rare": plan_of(corpus_of([("ab", 12), ("bc", 12), ("abc", 1)]), 16, 4, alpha=0.0, pairs=OVER_B),
        "tight": plan_of(ragged_corpus(7, num_passages=150, num_cells=14), 108, 7, mixing="shares"),
    }
    assert {name: digest(plan, 200) for name, plan in plans.items()} == {
        "sample": "8b052adfb28b7d58",
        "parallel": "81f9ee2b38e068a2",
        "ragged": "f301e2b2534a5d6e",
        "filled": "a24b50c51a970b8f",
        "rare": "dbe403e4c5977c36",
        "tight": "5af70ba63d21084d",
    }


def test_a_version_with_different_batches_is_not_resumed() -> None:
    state = plan_of(corpus_of([("ab", 900), ("bc", 900), ("abc", 2)]), 16, pairs=OVER_B).state
    check_resume({**state}, state)
    with pytest.raises(UserError, match="this version of hbt_dist draws different batches"):
        check_resume({**state, "version": 3}, state)


@pytest.mark.parametrize("block", KINDS)
def test_exams(block: dict[str, object], shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = {"name": "exams", "format": "exams", "path": str(shared_data / "exams")}
    data = DataSettings.model_validate({"sources": [source], "missing": "skip"})
    corpus = build_corpus(data, tmp_path_factory.getbasetemp() / "exams")
    for rows in (2, 8, 64, 96):
        plan = plan_of(corpus, rows, 0, **block)
        for step in range(20):
            check_rows(corpus, plan.batch(step))
    if block == {"alpha": 0.0}:
        assert_pairs_as_configured(plan_of(corpus, 64, 1, **block), 200)
