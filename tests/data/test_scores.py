"""Scores of a teacher and languages of mined negatives: from files to the corpus, a batch and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hbt_dist.batching.collate import teacher_scores
from hbt_dist.batching.inspection import inspect
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import OPTIONAL_COLUMNS, Corpus

Write = Callable[..., Path]
Build = Callable[..., Corpus]
Make = Callable[..., dict[str, Any]]
NONE = np.float32("nan")


def negative(number: int, **fields: Any) -> dict[str, Any]:
    return {"text": {code: f"negative {number} {code}" for code in ("de", "en", "fi")}, **fields}


@pytest.fixture
def scored(write_lines: Write, build: Build, make_example: Make) -> Corpus:
    """Six examples, the negatives of the first two scored or mined; German is left out."""
    rows = [make_example(number) for number in range(6)]
    first = [negative(0, score=0.25, language="fi"), negative(1), negative(2, language="de", score=None)]
    repeated = {"text": rows[1]["passage"], "score": 0.9, "language": "en"}
    rows[0] |= {"score": 0.5, "negatives": first}
    rows[1] |= {"score": None, "negatives": [repeated, negative(3, score=-2, language="en")]}
    return build(write_lines("train.jsonl", rows), languages=["fi", "en"], missing="skip")


def test_scores_and_languages_reach_the_corpus(scored: Corpus) -> None:
    assert scored.negative_offsets.tolist() == [0, 3, 4, 4, 4, 4, 4]
    assert_array_equal(scored.example_score, np.array([0.5, *[NONE] * 5], np.float32))
    assert_array_equal(scored.negative_score, np.array([0.25, NONE, NONE, -2], np.float32))
    assert_array_equal(scored.negative_language, [0, -1, -1, 1])
    assert {scored.example_score.dtype, scored.negative_score.dtype} == {np.dtype(np.float32)}  # type: ignore[union-attr]


def test_a_batch_has_the_scores_of_its_negatives(scored: Corpus) -> None:
    block = {"global_batch_size": 6, "alpha": 1.0, "hard_negatives": {"count": 4}}
    plan = BatchPlan(scored, BatchSettings.model_validate(block), 0)
    batch = plan.batch(0)
    scores = teacher_scores(batch, scored)
    assert scores is not None
    for row, example in enumerate(batch.example.tolist()):
        held = range(*scored.negative_offsets[example : example + 2].tolist())
        from_data = batch.negative_number[row][batch.negative_number[row] >= 0]
        assert sorted(from_data.tolist()) == list(held)
        assert_array_equal(batch.negative[row][: len(held)], scored.negatives[from_data])
        want = [scored.example_score[example], *scored.negative_score[from_data]]  # type: ignore[index]
        assert_array_equal(scores[row], np.array([*want, *[NONE] * (4 - len(held))], np.float32))


def test_without_scores_nothing_is_added(write_lines: Write, build: Build, make_example: Make) -> None:
    rows = [make_example(0, negatives=[negative(0)]), make_example(1)]
    corpus = build(write_lines("train.jsonl", rows), languages=["en", "fi"])
    assert not [name for name in OPTIONAL_COLUMNS if (corpus.folder / f"{name}.npy").exists()]
    plan = BatchPlan(corpus, BatchSettings(global_batch_size=2, alpha=1.0), 0)
    assert teacher_scores(plan.batch(0), corpus) is None
    # This fingerprint was computed before scores were read: caches and checkpoints stay valid.
    assert corpus.fingerprint == "df7583fee877a50725bcdebebf5dc8a4a4508aa066d68132dcd5aeaa4e249125"


def test_the_report_shows_scores_and_languages(scored: Corpus) -> None:
    plan = BatchPlan(scored, BatchSettings(global_batch_size=2), 0)
    report = inspect(plan, 10, step=0, rows=2)
    tables = {table.title: table.rows for table in report.corpus}
    assert tables["Scores of a teacher"] == [
        ("passage", 1, 1 / 6, 0.5, 0.5, 0.5),
        ("hard negative", 2, 0.5, -2.0, -0.875, 0.25),
    ]
    assert tables["Hard negatives by the language in which they were mined"] == [
        ("(not recorded)", 2, 0.5),
        ("fi", 1, 0.25),
        ("en", 1, 0.25),
    ]
    scores = teacher_scores(plan.batch(0), scored)
    assert scores is not None
    assert [row[-1] for row in report.step[0].rows] == [f"{score:.3g}" for score in scores[:, 0]]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "text": ({"score": "0.9"}, "line 1: field 'score' is a string.*expected a number"),
    "nan": ({"score": float("nan")}, "line 1: field 'score' is nan.*expected a finite number"),
    "overflow": ({"score": 1e300}, "line 1: field 'score' is 1e.300"),
    "truth": ({"score": True}, "line 1: field 'score' is"),
    "negative": ({"negatives": [negative(0, score=[1])]}, r"line 1, negatives\[0\]: field 'score' is a list"),
    "language": (
        {"negatives": [negative(0, language="sv")]},
        "language is 'sv', but .* in de, en, fi",
    ),
    "code": ({"negatives": [negative(0, language="zz9")]}, r"negatives\[0\]: .*zz9.* not a language"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_lines(name: str, write_lines: Write, build: Build, make_example: Make) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(UserError, match=f"(?s){message}"):
        build(write_lines("train.jsonl", [make_example(0) | changes]))


FLAG = {"query": "q", "pos": ["p"], "neg": ["n", "m"]}


@pytest.mark.parametrize(
    ("fields", "columns", "message"),
    [
        ({"neg_scores": [1.0]}, {}, "expected 2 scores in 'neg_scores', one per negative, got 1"),
        ({"pos_scores": [1, 2]}, {}, "expected 1 score in 'pos_scores', one per passage, got 2"),
        ({"neg_scores": [1.0, "x"]}, {}, r"neg_scores\[1\] is a string"),
        ({}, {"negative_scores": "s"}, "no row has a column 's'"),
    ],
)
def test_mistakes_in_columns(
    fields: dict[str, Any], columns: dict[str, str], message: str, write_lines: Write, build: Build
) -> None:
    path = write_lines("train.jsonl", [FLAG | fields])
    with pytest.raises(UserError, match=message) as error:
        build(path, columns={"language": "en", **columns})
    if "expected" in message:
        setting = "negative_scores" if "neg" in message else "passage_score"
        assert f"columns: {{{setting}: null}}" in error.value.remedy
        assert build(path, columns={"language": "en", setting: None}).num_examples == 1


def test_scores_of_a_table(tmp_path: Path, build: Build) -> None:
    (tmp_path / "a.csv").write_text("question,passage,negative_1,negative_2,grade,s_1,s_2\nq,p,n,m,0.5,,-1\n")
    names = {"negatives": "negative_{number}", "passage_score": "grade", "negative_scores": "s_{number}"}
    corpus = build(tmp_path / "a.csv", "csv", columns={"language": "en", **names})
    assert_array_equal(corpus.example_score, [0.5])
    assert_array_equal(corpus.negative_score, np.array([NONE, -1], np.float32))
    assert corpus.manifest["statistics"][0].get("unused") is None
