"""Code-switched training on several real processes is that of one plain process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.runs import tiny_run, write_run
from tests.helpers.workers import run_workers


def figures(folder: Path, cache: Path, world_size: int, stage: int | None) -> list[dict[str, Any]]:
    output = folder / "out"
    folder.mkdir()
    run = tiny_run(
        output, cache, deepspeed__config=stage, model__scratch__architecture__hidden_dropout_prob=0.0
    )
    run["model"]["scratch"]["architecture"]["attention_probs_dropout_prob"] = 0.0  # dropout differs by rank
    run["batches"]["code_switching"] = {
        "dictionaries": "sample",
        "question_probability": 0.7,
        "passage_probability": 0.4,
    }
    file = write_run(folder / "run.yaml", run)
    run_workers(world_size, ["train", file, "--launcher", "local", "--quiet"], folder, timeout=200)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_equal_one_plain_process(tmp_path: Path) -> None:
    """Losses, gradient norms (AdamW hides a factor of the world size in the weights), switch counts."""
    one = figures(tmp_path / "one", tmp_path / "cache", 1, None)
    assert len(one) == 6
    assert any(row["code_switching"]["question"]["switched"] > 0 for row in one)
    for world_size, stage in ((2, None), (2, 1), (3, 2)):
        several = figures(tmp_path / f"{world_size}-{stage}", tmp_path / "cache", world_size, stage)
        assert [row["code_switching"] for row in several] == [row["code_switching"] for row in one]
        for name in ("loss", "gradient_norm"):
            want = [row[name] for row in one]
            np.testing.assert_allclose([row[name] for row in several], want, rtol=2e-4, err_msg=name)
