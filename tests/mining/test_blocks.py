"""Mined negatives are those of a plain loop, for every block size, part of the pool and number of threads."""

from __future__ import annotations

import dataclasses
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.mining import search
from hbt_dist.mining.blocks import MiningPlan, block_memory, join_blocks, mine_block
from hbt_dist.mining.mined import MinedNegatives
from hbt_dist.mining.selection import quotas
from hbt_dist.mining.settings import MiningSettings
from tests.batching.corpora import parallel_corpus, ragged_corpus
from tests.evaluation.test_faiss_lists import GpuBuild
from tests.mining.plain import PlainMiner, made_plan

SHARES = {"passage": 0.5, "question": 0.25, "other": 0.25}


def mined(plan: MiningPlan, **how: Any) -> MinedNegatives:
    for number in plan.missing():
        mine_block(plan, number, **how)
    return join_blocks(plan)


def rows_of(negatives: MinedNegatives, example: int) -> list[tuple[int, int, float]]:
    part = slice(*negatives.offsets[example : example + 2].tolist())
    return list(
        zip(
            negatives.passage[part].tolist(),
            negatives.language[part].tolist(),
            negatives.score[part].tolist(),
            strict=True,
        )
    )


def made_settings(**changes: Any) -> MiningSettings:
    return MiningSettings.model_validate({"count": 4, "examples_per_block": 16} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"languages": "any"},
        {"languages": SHARES},
        {"languages": SHARES, "count": 3, "rank_min": 2, "rank_max": 9, "margin": 1.0},
        {"languages": "question", "relative_margin": 0.2, "fill": "relax"},
        {"languages": {"passage": 0.3, "other": 0.7}, "min_score": 1.0, "max_score": 6.0, "fill": "relax"},
    ],
    ids=["any", "shares", "ranks and margin", "relaxed", "scores"],
)
@pytest.mark.parametrize("whole", [True, False], ids=["ties", "no ties"])
def test_negatives_are_those_of_a_plain_loop(changes: dict[str, Any], whole: bool, tmp_path: Path) -> None:
    corpus = ragged_corpus(3, num_passages=16, most_questions=2)
    chosen = made_settings(**changes)
    plan = made_plan(corpus, tmp_path, chosen, seed=5, whole=whole)
    negatives = mined(plan)
    plain = PlainMiner(corpus, plan.questions, plan.candidates, chosen, plan.seed)
    for example in range(corpus.num_examples):
        want = [(c.passage, c.language, c.score) for c in plain.negatives(example)]
        assert rows_of(negatives, example) == want, example
        best = max(
            plain.score(example, int(corpus.example_passage[example]), code)
            for code in plain.languages(example, "passage")
        )
        assert negatives.positive_score[example] == np.float32(best)
    counts = negatives.counts
    assert sum(counts["languages"][code]["negatives"] for code in corpus.languages) == len(negatives.passage)
    unfilled = sum(share["unfilled"] for share in counts["shares"].values())
    assert len(negatives.passage) + unfilled == chosen.count * corpus.num_examples


def draw_settings(draw: st.DrawFn) -> MiningSettings:
    count = draw(st.integers(1, 5))
    languages: Any = draw(
        st.sampled_from(["any", "passage", "question", "other", SHARES, {"question": 0.6, "other": 0.4}])
    )
    return MiningSettings(
        count=count,
        languages=languages,
        rank_min=draw(st.integers(0, 3)),
        margin=draw(st.sampled_from([None, 0.0, 2.0])),
        max_score=draw(st.sampled_from([None, 3.0])),
        sampling=draw(st.sampled_from(["top", "random"])),
        fill=draw(st.sampled_from(["leave", "relax"])),
        examples_per_block=draw(st.integers(1, 60)),
    )


@settings(max_examples=6)
@given(st.data())
def test_no_example_gets_its_group_or_a_passage_twice(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Over random corpora and settings; other blocks, parts of the pool, pairs and threads give the same."""
    check_random_mining(tmp_path_factory, data)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.data())
def test_no_example_gets_its_group_or_a_passage_twice_in_more_cases(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    check_random_mining(tmp_path_factory, data)


def check_random_mining(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    chosen = data.draw(st.composite(draw_settings)())
    corpus = ragged_corpus(
        data.draw(st.integers(0, 1000)),
        num_passages=data.draw(st.integers(2, 40)),
        most_questions=3,
        num_languages=data.draw(st.integers(2, 5)),
    )
    joined = data.draw(st.integers(1, 8))  # groups of several passages, as translations and equal texts make
    corpus.passage_group = np.asarray(corpus.passage_group) // joined
    corpus.example_group = corpus.passage_group[corpus.example_passage]
    seed = data.draw(st.integers(0, 50))
    plan = made_plan(
        corpus, tmp_path_factory.mktemp("one"), chosen, seed=seed, whole=data.draw(st.booleans())
    )
    negatives = mined(plan)
    check_negatives(corpus, negatives, chosen, seed)
    changed = chosen.model_copy(update={"examples_per_block": data.draw(st.integers(1, 60))})
    again = made_again(plan, tmp_path_factory.mktemp("two"), changed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "PART_BYTES", 4 * 6 * data.draw(st.integers(1, 50)))
        patch.setattr(search, "PAIRS", data.draw(st.integers(1, 400)))
        patch.setattr(search, "EXTRA", data.draw(st.integers(0, 20)))
        assert mined(again, num_threads=data.draw(st.integers(1, 2))).digest == negatives.digest
    assert join_blocks(again).counts == negatives.counts


def check_negatives(corpus: Corpus, negatives: MinedNegatives, chosen: MiningSettings, seed: int) -> None:
    requested = quotas(chosen, seed, np.arange(corpus.num_examples))
    for example in range(corpus.num_examples):
        rows = rows_of(negatives, example)
        passages = [passage for passage, _, _ in rows]
        assert len(set(passages)) == len(rows) <= chosen.count
        assert all(corpus.passage_group[row] != corpus.example_group[example] for row in passages)
        assert all(corpus.passage_has(np.array([row]), language)[0] for row, language, _ in rows)
        cell = corpus.example_cell[example]
        inside = {
            "passage": corpus.cell_passages[cell],
            "question": corpus.cell_questions[cell],
            "other": ~(corpus.cell_passages[cell] | corpus.cell_questions[cell]),
        }
        for share, has in inside.items():  # negatives outside a share's languages are those of the rest
            rest = sum(int(numbers[example]) for name, numbers in requested.items() if name != share)
            assert sum(not has[language] for _, language, _ in rows) <= rest


def made_again(plan: MiningPlan, folder: Path, changed: MiningSettings) -> MiningPlan:
    return dataclasses.replace(plan, folder=folder, settings=changed)


def test_quotas_sum_to_the_count_and_are_right_on_average() -> None:
    examples = np.arange(4000)
    chosen = made_settings(count=3, languages={"passage": 0.5, "question": 0.3, "other": 0.2})
    numbers = quotas(chosen, 7, examples)
    assert (sum(numbers.values()) == 3).all()
    for share, want in (("passage", 1.5), ("question", 0.9), ("other", 0.6)):
        assert set(numbers[share].tolist()) <= {int(want), int(want) + 1}
        assert numbers[share].mean() == pytest.approx(want, abs=0.03)
    exact = quotas(made_settings(languages=SHARES), 7, examples)
    assert [set(values.tolist()) for values in exact.values()] == [{2}, {1}, {1}]


def test_random_negatives_are_drawn_from_the_eligible_ones_and_differ_by_seed(tmp_path: Path) -> None:
    corpus = parallel_corpus(60, 1, 2)
    chosen = made_settings(languages="passage", sampling="random", rank_min=2, rank_max=12)
    plan = made_plan(corpus, tmp_path / "a", chosen, seed=1)
    plain = PlainMiner(corpus, plan.questions, plan.candidates, chosen, 1)
    negatives = mined(plan)
    drawn = np.zeros(10, np.int64)
    for example in range(corpus.num_examples):
        eligible = [candidate.passage for candidate in plain.eligible(example, "passage")]
        picked = [passage for passage, _, _ in rows_of(negatives, example)]
        assert len(set(picked)) == 4
        drawn[[eligible.index(passage) for passage in picked]] += 1
    assert drawn.min() > 10  # 24 on average
    other = dataclasses.replace(plan, folder=tmp_path / "b", seed=2)
    assert mined(other).digest != negatives.digest


def test_ties_and_groups_deeper_than_the_search_are_searched_again(tmp_path: Path) -> None:
    """A group of 200 passages above every candidate, and 150 candidates with one score."""
    corpus = parallel_corpus(400, 1, 1)
    group = np.arange(400)
    group[:200] = 0
    corpus.passage_group, corpus.example_group = group, group
    plan = made_plan(corpus, tmp_path, made_settings(count=2), width=2)
    candidates = np.ones((400, 2), np.float32)
    candidates[:200], candidates[200:250] = 4.0, 0.5
    negatives = mined(
        dataclasses.replace(plan, candidates=candidates, questions=np.ones((400, 2), np.float32))
    )
    assert rows_of(negatives, 0) == [(250, 0, 2.0), (251, 0, 2.0)]
    assert rows_of(negatives, 399) == [(0, 0, 8.0), (1, 0, 8.0)]
    assert negatives.counts["languages"]["en"]["group"] == 200 * 200


def test_a_sum_that_float32_gets_wrong_does_not_decide_the_order(tmp_path: Path) -> None:
    """faiss's sums of these rows differ by its rounding; the exact products are in the order of the rows."""
    random = np.random.default_rng(2)
    corpus = parallel_corpus(300, 1, 1)
    plan = made_plan(corpus, tmp_path, made_settings(count=8), width=96, whole=False)
    base = random.normal(size=96).astype(np.float32)
    candidates = np.stack([np.roll(base, row) for row in range(300)])  # equal sums in 300 orders
    negatives = mined(
        dataclasses.replace(plan, candidates=candidates, questions=np.full((300, 96), 0.1, np.float32))
    )
    exact = float(np.float32(float(np.float32(0.1)) * base.astype(float).sum()))
    for example in range(300):
        want = [row for row in range(9) if row != example][:8]
        assert [passage for passage, _, _ in rows_of(negatives, example)] == want
    assert {score for _, _, score in rows_of(negatives, 0)} == {exact}


def test_a_judge_decides_order_margins_and_scores(tmp_path: Path) -> None:
    corpus = ragged_corpus(4, num_passages=12, most_questions=1)
    chosen = made_settings(count=2, languages=SHARES, margin=0.0)
    calls: list[int] = []

    def judge(examples: Any, passages: Any, languages: Any) -> Any:
        calls.append(len(examples))
        assert len({*zip(examples.tolist(), passages.tolist(), languages.tolist(), strict=True)}) == len(
            examples
        )
        return (-passages - languages / 16).astype(np.float32)

    plan = made_plan(corpus, tmp_path, chosen)
    negatives = mined(plan, judge=judge)
    assert len(calls) == 2 * plan.num_blocks
    for example in range(corpus.num_examples):
        positive = int(corpus.example_passage[example])
        rows = rows_of(negatives, example)
        assert all(passage > positive for passage, _, _ in rows)
        assert [score for _, _, score in rows] == [-passage - language / 16 for passage, language, _ in rows]


def test_examples_whose_candidates_are_all_left_out_are_counted(tmp_path: Path) -> None:
    corpus = parallel_corpus(30, 1, 2)
    strict = mined(made_plan(corpus, tmp_path / "a", made_settings(margin=100.0))).counts
    assert (strict["examples_all_excluded"], strict["examples_without"], strict["examples"]) == (30, 30, 30)
    assert sum(of["margin"] for of in strict["languages"].values()) == 30 * 29
    relaxed = mined(made_plan(corpus, tmp_path / "b", made_settings(margin=100.0, fill="relax"))).counts
    assert relaxed["shares"] == {"any": {"requested": 120, "unfilled": 0, "relaxed": 120}}
    alone = mined(made_plan(corpus, tmp_path / "c", made_settings(languages="other"))).counts
    assert (alone["examples_without"], alone["examples_all_excluded"]) == (30, 0)


def test_vectors_of_other_texts_are_refused(tmp_path: Path) -> None:
    corpus = parallel_corpus(30, 1, 2)
    plan = made_plan(corpus, tmp_path, made_settings())
    few = dataclasses.replace(plan, candidates=plan.candidates[:50])
    with pytest.raises(UserError, match=r"vectors of passages: expected shape \(60, width\), got \(50, 6\)"):
        mine_block(few, 0)
    narrow = dataclasses.replace(plan, questions=plan.questions[:, :3])
    with pytest.raises(UserError, match="expected vectors of one width, got questions 3, passages 6"):
        mine_block(narrow, 0)
    bad = np.array(plan.candidates)
    bad[31, 2] = np.nan
    with pytest.raises(UserError, match="passage embedding of '1 in fi'"):
        mine_block(dataclasses.replace(plan, candidates=bad), 0)
    assert plan.missing() == list(range(plan.num_blocks))


def test_a_plan_pickles_and_continues_with_the_missing_blocks(tmp_path: Path) -> None:
    plan = made_plan(parallel_corpus(40, 1, 2), tmp_path, made_settings())
    whole = mined(plan)
    first = plan.file(0).read_bytes()
    plan.file(1).unlink()
    copy = dataclasses.replace(plan, corpus=plan.corpus)
    assert copy.missing() == [1]
    mine_block(copy, 0)  # an existing file stays
    assert plan.file(0).read_bytes() == first
    assert mined(copy).digest == whole.digest
    assert pickle.loads(pickle.dumps(plan.settings)) == plan.settings


@pytest.mark.parametrize(
    ("device", "searched_on"), [("cuda:1", {1, "cpu"}), ("cuda:2", {"cpu"}), ("cpu", {"cpu"})]
)
def test_a_gpu_that_faiss_can_use_searches(
    device: str, searched_on: set[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists deeper than a GPU finds are searched on the CPU; the negatives are the same."""
    corpus = parallel_corpus(2600, 1, 1)
    plan = made_plan(corpus, tmp_path / "want", made_settings(examples_per_block=64), whole=False)
    candidates = np.array(plan.candidates)
    candidates[:2500] = candidates[0]  # a tie of 2,500
    plan = dataclasses.replace(plan, candidates=candidates)
    want = np.load(mine_block(plan, 0))
    build = GpuBuild()
    monkeypatch.setattr(search, "load_faiss", lambda *_: build)
    there = dataclasses.replace(plan, folder=tmp_path / device)
    got = np.load(mine_block(there, 0, device=torch.device(device)))
    assert set(build.asked) == searched_on
    for name in ("passage", "language", "score", "number"):
        np.testing.assert_array_equal(got[name], want[name])


def test_memory_grows_with_the_block_and_not_with_the_pool() -> None:
    small, large = (block_memory(made_settings(examples_per_block=n), 64, 2) for n in (4096, 8192))
    assert small == 2 * 2**27 + 2 * 4096 * 64 * 8 + 72 * 2**22 + 96 * 4096 * 41
    assert large - small == 2 * 4096 * 64 * 8 + 96 * 4096 * 41


def test_pairs_take_the_stated_memory_for_every_width_and_mixture_of_questions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few examples with 40 questions between 2,000 with one, and wide vectors."""
    monkeypatch.setattr(search, "PART_BYTES", 2**18)
    monkeypatch.setattr(search, "PAIRS", 2**15)
    monkeypatch.setattr(search, "_PRODUCT_BYTES", 2**18)
    counts = np.ones(2000, np.int64)
    counts[::250] = 40
    starts = np.concatenate([[0], np.cumsum(counts)])
    random = np.random.default_rng(0)
    questions = search.Questions(random.normal(size=(starts[-1], 4)).astype(np.float32), starts)
    corpus = parallel_corpus(2000, 1, 1)
    candidates = random.normal(size=(2000, 4)).astype(np.float32)
    pool = search.Pool(FlatTexts(corpus, "passage"), candidates)
    found = search.PoolSearch(pool, torch.device("cpu"), 1)
    examples = np.arange(2000)
    lists, peak = traced(lambda: found.lists(questions, examples, examples, 0, 41)[0])
    assert peak < 2 * 2**18 + search.PAIR_BYTES * 2**16 + 96 * 2000 * 41
    best = (questions.vectors.astype(np.float64) @ candidates.T.astype(np.float64)).astype(np.float32)
    best = np.maximum.reduceat(best, starts[:-1], axis=0)
    best[examples, examples] = -np.inf
    np.testing.assert_array_equal(pool.decode(lists)[0], -np.sort(-best, axis=1)[:, :41])

    monkeypatch.undo()
    wide, rows = np.ones((4, 4096), np.float32), np.arange(8192) % 4
    assert traced(lambda: search.pair_scores(wide, rows, wide, rows))[1] < 2**27


def test_scores_of_a_judge_must_be_finite(tmp_path: Path) -> None:
    plan = made_plan(parallel_corpus(20, 1, 1), tmp_path, made_settings())
    with pytest.raises(UserError, match="expected finite scores, got 16 of "):
        mine_block(plan, 0, judge=lambda *of: np.where(of[1] == of[0], np.nan, 0.5).astype(np.float32))
    with pytest.raises(UserError, match=r"mining\.judge"):
        mine_block(plan, 0, judge=lambda *of: np.full(len(of[0]), np.nan, np.float32))
    assert not plan.file(0).exists()


def traced(work: Callable[[], Any]) -> tuple[Any, int]:
    """The result of some work, and the most bytes that it took at once."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
