"""Columns that the loss left out by similarity: figures of a run, its log, and bad run files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hbt_dist.contrastive.false_negatives import MaskedColumns
from hbt_dist.run_file import RunFile
from hbt_dist.training.masked_columns import bare_rows_warning, masked_figures, masked_summary
from tests.helpers.runs import tiny_run


@pytest.mark.slow
def test_a_run_reports_masked_columns_by_pair_of_languages(launch: Any, tmp_path: Path) -> None:
    masks = {"margin": 0.0}
    file, output = launch.file(tmp_path / "run", loss={"false_negatives": masks}, training__steps=3)
    launch.finish(file, 2)
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == 3
    for row in rows:
        counts = row["masked_by_pair"]
        assert 0 < row["masked_columns"] < 1
        # 12 rows with 11 negatives each: no two passages of a batch share a group.
        assert sum(masked for masked, _ in counts.values()) == round(row["masked_columns"] * 132)
        assert all(0 < masked <= columns for masked, columns in counts.values())
        assert set(counts) <= {f"{q}-{p}" for q in ("en", "fi", "hu") for p in ("en", "fi", "hu")}
    assert masked_summary(rows) == (output / "log.txt").read_text("utf-8").splitlines()[-1]


def test_figures_and_summary_name_the_pairs() -> None:
    masked = MaskedColumns((1, 4), [[3, 0], [5, 1]], [[10, 6], [20, 4]], bare_rows=1, rows=4)
    figures = masked_figures(masked, ["ar", "de", "en", "es", "fi"])
    assert figures == {
        "masked_columns": 0.225,
        "rows_without_negatives": 0.25,
        "masked_by_pair": {"de-de": [3, 10], "fi-de": [5, 20], "fi-fi": [1, 4]},
    }
    assert bare_rows_warning(7, figures) == (
        "step 7: 25.0% of the rows had no negative left: InfoNCE learned nothing from them; raise the margin "
        "of loss.false_negatives"
    )
    assert bare_rows_warning(8, {**figures, "rows_without_negatives": 0.0}) is None
    assert masked_summary([{"loss": 1.0}]) is None
    assert masked_summary([figures, {**figures, "masked_by_pair": {}, "masked_columns": 0.0}]) == (
        "false negatives: masked 11.250% of the columns, mean of 2 steps; most of them question-passage "
        "fi-de 56%, de-de 33%, fi-fi 11%; 25.00% of the rows had no negative left"
    )


def test_masks_of_hard_negatives_need_hard_negatives(tmp_path: Path) -> None:
    masks = {"margin": 0.1, "columns": "hard_negatives"}
    run = tiny_run(tmp_path / "out", tmp_path, loss={"false_negatives": masks})
    with pytest.raises(ValidationError, match=r"but batches\.hard_negatives\.count is 0"):
        RunFile.model_validate(run)


def test_a_guide_needs_its_model(tmp_path: Path) -> None:
    masks = {"margin": 0.0, "guide": "labse"}
    run = tiny_run(tmp_path / "out", tmp_path, loss={"false_negatives": masks})
    with pytest.raises(ValidationError, match=r"loss\.false_negatives\.guide names labse, which `teachers`"):
        RunFile.model_validate(run)
