"""A share of every batch from some of the sources: exact, equal for all ranks, or refused before the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_dist.batching.inspection import inspect
from hbt_dist.batching.mixture import apportion
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from tests.batching.corpora import corpus_from_arrays, parallel_corpus
from tests.helpers.command_line import call_main


def plan_of(corpus: Corpus, batch_size: int, mixture: list[dict[str, Any]], **block: object) -> BatchPlan:
    given = {"global_batch_size": batch_size, "mixture": mixture, **block}
    return BatchPlan(corpus, BatchSettings.model_validate(given), 5)


def two_tasks() -> Corpus:
    """Task `a` in English and Arabic, task `b` in English and Finnish: 200 examples each."""
    cells = np.array([[True, True, False], [True, False, True]])
    task = np.repeat([0, 1], 200).astype(np.int32)
    return corpus_from_arrays(
        languages=["en", "ar", "fi"],
        example_passage=np.arange(400),
        example_cell=task,
        cell_questions=cells,
        cell_passages=cells,
        example_dataset=task,
        datasets=["task-a", "task-b"],
    )


@settings(max_examples=12, deadline=None)
@given(
    weights=st.tuples(*[st.floats(0.05, 1)] * 3),
    batch_size=st.sampled_from([8, 24, 40]),
    kinds=st.tuples(*[st.sampled_from(["monolingual", "crosslingual", "mixed_monolingual", "any_pair"])] * 3),
    step=st.integers(0, 10**6),
)
def test_sources_get_their_rows_in_every_batch_on_any_number_of_ranks(
    weights: tuple[float, ...], batch_size: int, kinds: tuple[str, ...], step: int
) -> None:
    corpus = parallel_corpus(400, 3, 3, dataset_sizes=(1, 1, 1, 1))
    sources = [["set0"], ["set1", "set3"], ["set2"]]
    mixture = [
        {"kind": kind, "weight": weight, "sources": names}
        for kind, weight, names in zip(kinds, weights, sources, strict=True)
    ]
    want = apportion(batch_size, np.array(weights)).tolist()
    for world_size in (1, 2, 4):
        plan = plan_of(corpus, batch_size, mixture, mixing="shares")
        parts = [plan.batch(step).rank_slice(rank, world_size).example for rank in range(world_size)]
        dataset = np.bincount(corpus.example_dataset[np.concatenate(parts)], minlength=4)
        assert [dataset[0], dataset[1] + dataset[3], dataset[2]] == want


def test_weights_of_datasets_hold_among_the_sources_of_an_entry() -> None:
    corpus = parallel_corpus(400, 3, 3, dataset_sizes=(1, 1, 1))
    mixture = [
        {"kind": "monolingual", "weight": 3, "sources": ["set1", "set2"]},
        {"kind": "crosslingual", "weight": 1},
    ]
    block = {"mixing": "shares", "datasets": {"weights": {"set0": 1, "set1": 3, "set2": 1}}}
    plan = plan_of(corpus, 32, mixture, **block)
    entry = plan.streams[0].shares.joint.share.sum(axis=1)
    np.testing.assert_allclose(entry[plan.cells.dataset.argsort()], [0, 0.75, 0.25])
    batches = [plan.batch(step) for step in range(40)]
    counts = sum(np.bincount(corpus.example_dataset[batch.example], minlength=3) for batch in batches)
    np.testing.assert_allclose(
        counts / counts.sum(), [0.05, 0.75 * 0.75 + 0.15, 0.75 * 0.25 + 0.05], atol=0.02
    )


def test_batches_of_a_task_have_its_languages_whatever_languages_weigh() -> None:
    """With per_batch whole batches come from the sources. Finnish has weight, but no example in task a."""
    corpus = two_tasks()
    mixture = [{"kind": "monolingual", "sources": ["task-a"]}, {"kind": "monolingual", "sources": ["task-b"]}]
    plan = plan_of(corpus, 16, mixture, languages={"en": 1, "fi": 3, "ar": 2})
    for batch in map(plan.batch, range(30)):
        (task,) = np.unique(corpus.example_dataset[batch.example])
        (language,) = np.unique(batch.question_language)
        assert language in ((0, 1) if task == 0 else (0, 2))


def test_a_plan_without_sources_keeps_its_fingerprint() -> None:
    """Recorded before `sources` existed; checkpoints hold it."""
    plan = plan_of(two_tasks(), 8, [{"kind": "monolingual", "languages": ["en"]}, {"kind": "any_pair"}])
    assert plan.fingerprint == "c3f0a6a1a2554f943dcb8a78738082bc78beb2ece4a66e62e2ff354174f45da7"
    assert (
        plan.fingerprint
        != plan_of(two_tasks(), 8, [{"kind": "monolingual", "sources": ["task-a"]}]).fingerprint
    )


@pytest.mark.parametrize(
    ("entry", "block", "message"),
    [
        (
            {"sources": ["taska"]},
            {},
            r"sources: expected names of sources \(task-a, task-b\), got 'taska'\n.*did you mean 'task-a'",
        ),
        (
            {"sources": ["task-a"], "languages": ["en", "fi"]},
            {},
            r"expected examples in 'fi', got task-a only in en, ar\n.*take fi out",
        ),
        (
            {"sources": ["task-b"]},
            {"datasets": {"weights": {"task-a": 1, "task-b": 0}}},
            r"every source that it may draw from has weight 0 in batches.datasets.weights",
        ),
        (
            {"kind": "crosslingual", "sources": ["task-b"], "languages": ["fi"]},
            {},
            r"task-b holds no example for it\n.*languages of task-b: en, fi",
        ),
        ({"sources": ["task-a"], "weight": 3}, {"global_batch_size": 300}, "for which task-a has only"),
    ],
)
def test_sources_that_cannot_give_the_rows(
    entry: dict[str, Any], block: dict[str, Any], message: str
) -> None:
    mixture = [{"kind": "monolingual", **entry}]
    given = {"global_batch_size": 8, "mixture": mixture, **block}
    with pytest.raises(UserError, match=message):
        BatchPlan(two_tasks(), BatchSettings.model_validate(given), 0)


def test_inspection_shows_the_sources() -> None:
    mixture = [
        {"kind": "monolingual", "weight": 0.7, "sources": ["task-a"]},
        {"kind": "crosslingual", "weight": 0.3},
    ]
    report = inspect(plan_of(two_tasks(), 10, mixture, mixing="shares"), 10)
    kinds = report.plan[0]
    assert kinds.columns == ("kind", "languages", "sources", "configured share", "drawn share")
    assert [row[:3] for row in kinds.rows] == [
        ("monolingual", "all", "task-a"),
        ("crosslingual", "all", "all"),
    ]
    assert {row[0] for row in report.plan[-1].rows} == {"monolingual (task-a)", "crosslingual"}


def test_a_run_with_an_unknown_source_ends_before_data_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = {
        "name": "tasks",
        "output_dir": str(tmp_path / "run"),
        "data": {"sources": [{"name": "questions", "format": "jsonl", "path": "absent.jsonl"}]},
        "batches": {"global_batch_size": 8, "mixture": [{"kind": "any_pair", "sources": ["question"]}]},
        "model": {"scratch": {}},
        "training": {"steps": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    code, _, error = call_main(monkeypatch, capsys, "train", tmp_path / "run.yaml")
    assert code == 2
    assert "batches.mixture.0.sources: expected names of sources (questions), got 'question'" in error
    assert "did you mean 'questions'?" in error
