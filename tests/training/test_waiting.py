"""Ranks whose start takes long wait for each other, longer than any collective may take."""

from __future__ import annotations

from pathlib import Path

import pytest

from hbt_dist.orchestration.private_cluster import free_port
from tests.helpers.ranks import run_ranks
from tests.helpers.runs import tiny_run
from tests.training.conftest import Launch

BODIES = "tests.training.waiting_bodies"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "rank"),
    [
        ("prepare", 1),  # a node with a cold cache
        ("check_benchmarks", 0),  # what only the first process does
    ],
)
def test_a_slow_start_is_waited_for(slow: str, rank: int, launch: Launch, tmp_path: Path) -> None:
    run = tiny_run(
        tmp_path / "out",
        launch.cache,
        model={"name_or_path": str(launch.start_model)},
        deepspeed={"config": None},
        evaluation={"benchmarks": [{"name": "sample"}], "when": []},
        training__steps=1,
        training__hang_timeout_seconds=15,
    )
    found = run_ranks(
        2, f"{BODIES}:slow_start", run=run, port=free_port(), slow=slow, rank=rank, seconds=20.0
    )
    assert found == [1, 1]


def test_what_one_rank_cannot_do_ends_all() -> None:
    found = run_ranks(2, f"{BODIES}:outcomes")
    refusal = "UserError here: wrong right"
    assert found == [
        ["0", refusal, "RuntimeError rank 1: KeyError: 'a bug'", refusal, "done 1"],
        ["10", refusal, "KeyError 'a bug'", refusal, "done 0"],
    ]
