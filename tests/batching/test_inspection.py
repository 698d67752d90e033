"""The inspection report: its numbers agree with the corpus and the plan, and it renders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len

from hbt_dist.batching.inspection import Table, inspect
from hbt_dist.batching.inspection_text import render
from hbt_dist.batching.negatives import unused_negatives
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings, HardNegativeSettings
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings
from tests.batching.corpora import parallel_corpus, ragged_corpus


def table(tables: list[Table], title: str) -> Table:
    (found,) = [one for one in tables if one.title.startswith(title)]
    return found


def column(one: Table, name: str) -> list[object]:
    return [row[one.columns.index(name)] for row in one.rows]


def test_numbers_of_the_corpus() -> None:
    corpus = ragged_corpus(4)
    report = inspect(BatchPlan(corpus, BatchSettings(global_batch_size=16), 0), 50)
    languages = table(report.corpus, "Examples by language")
    for index, name in enumerate(corpus.languages):
        row = languages.rows[column(languages, "language").index(name)]
        question = corpus.cell_questions[corpus.example_cell, index]
        passage = corpus.cell_passages[corpus.example_cell, index]
        want = (
            question.sum(),
            passage.sum(),
            (question & passage).sum(),
            (~question).sum(),
            (~passage).sum(),
        )
        assert row[1:] == tuple(int(number) for number in want)
    pairs = table(report.corpus, "Examples by pair")
    assert pairs.rows[0][2] == sum(
        corpus.cell_questions[cell, 0] and corpus.cell_passages[cell, 1] for cell in corpus.example_cell
    )


@pytest.mark.parametrize("mixing", ["per_batch", "shares"])
def test_shares_of_the_plan(mixing: str) -> None:
    corpus = parallel_corpus(400, 3, 3, dataset_sizes=(3, 1))
    block = {"global_batch_size": 32, "alpha": 0.25, "mixing": mixing, "languages": {"en": 3, "fi": 1}}
    plan = BatchPlan(corpus, BatchSettings.model_validate(block), 0)
    report = inspect(plan, 4000, step=3, rows=4)
    kinds = table(report.plan, "Kinds")
    assert column(kinds, "configured share") == [0.25, 0.75]
    np.testing.assert_allclose(column(kinds, "drawn share"), [0.25, 0.75], atol=0.03)
    pairs = dict(
        zip(*(column(table(report.plan, "Pairs"), name) for name in ("pair", "expected share")), strict=True)
    )
    assert pairs["en-en"] == pytest.approx(0.25 * 0.75)
    assert pairs["ar-fi"] == pytest.approx(0.75 / 6)
    for one in report.plan[1:4]:
        for name in one.columns:
            if name.endswith("drawn share"):
                expected = column(one, name.replace("drawn", "expected"))
                np.testing.assert_allclose(column(one, name), expected, atol=0.05)
                assert sum(column(one, name)) == pytest.approx(1)  # type: ignore[arg-type]
    batch = plan.batch(3)
    shown = table(report.step, "Step 3")
    assert column(shown, "example") == [str(example) for example in batch.example[:4]]
    assert shown.note == "28 more rows"
    without = [name for name in shown.columns if name != "sub-batch"]
    assert without == ["kind", "pair", "dataset", "example", "question", "passage"]
    text = render(report, width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "en-en" in text
    json.dumps(asdict(report))


def test_negatives_that_no_batch_takes_are_told() -> None:
    corpus = parallel_corpus(most_negatives=3)
    notes = []
    for count in (0, 1):
        block = {"global_batch_size": 8, "hard_negatives": {"count": count}}
        plan = BatchPlan(corpus, BatchSettings.model_validate(block), 0)
        notes.append(table(inspect(plan, 10).corpus, "Corpus").note)
    assert (
        f"{len(corpus.negatives):,} hard negatives are not used: batches.hard_negatives.count is 0"
        in notes[0]
    )
    assert "not used" not in notes[1]
    assert unused_negatives(parallel_corpus(), HardNegativeSettings()) == []
    shares = HardNegativeSettings(language={"passage": 0.5, "question": 0.5})
    assert unused_negatives(parallel_corpus(), shares) == [
        "batches.hard_negatives.language is not used: batches.hard_negatives.count is 0"
    ]


def test_texts_and_lengths_of_a_real_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        {
            "id": f"e{i}",
            "question": {"en": f"who {i}?", "zh": f"谁 {i}"},
            "passage": {"en": f"it {i}", "zh": f"它 {i}"},
        }
        for i in range(30)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    source = {"name": "made", "format": "jsonl", "path": str(path)}
    settings = DataSettings.model_validate({"sources": [source], "languages": ["en", "zh"]})
    corpus = build_corpus(settings, tmp_path / "cache")
    block = {"global_batch_size": 8, "alpha": 0.0, "hard_negatives": {"count": 1}}
    report = inspect(BatchPlan(corpus, BatchSettings.model_validate(block), 0), 10, step=0)
    shown = table(report.step, "Step 0")
    assert shown.columns == ("kind", "pair", "dataset", "example", "question", "passage", "hard negatives")
    for width in (80, 140):
        lines = render(report, width).splitlines()
        rows = lines[lines.index(next(line for line in lines if line.startswith("Step 0"))) + 2 :][:8]
        assert max(map(cell_len, lines)) <= width
        for line, row in zip(rows, shown.rows, strict=True):
            assert line.split()[:4] == [*row[:4]], "the narrow columns are whole"
    monkeypatch.setenv("COLUMNS", "20")  # of a terminal that the output does not go to
    for line, row in zip(render(report).splitlines()[-9:], shown.rows, strict=False):
        assert "…" not in line.replace(str(row[4]), "").replace(str(row[5]), "")
    assert "who" in render(report)
    assert "它" in render(report)
    assert "(random)" in render(report)
    assert len(table(report.corpus, "Lengths in characters").rows) == 4
