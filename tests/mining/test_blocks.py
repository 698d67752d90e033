"""Blocks of examples: which are missing, and what a plan needs to be mined anywhere."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hbt_dist.mining.blocks import MiningPlan, join_blocks, mine_block
from hbt_dist.mining.settings import MiningSettings


def test_a_plan_lists_the_blocks_that_are_missing(tmp_path: Path) -> None:
    corpus: Any = SimpleNamespace(num_examples=25)
    settings = MiningSettings(examples_per_block=10)
    vectors = np.ones((25, 4), np.float32)
    plan = MiningPlan(
        corpus=corpus, settings=settings, seed=1, folder=tmp_path, questions=vectors, candidates=vectors
    )
    assert plan.missing() == [0, 1, 2]
    plan.file(1).touch()
    assert pickle.loads(pickle.dumps(plan)).missing() == [0, 2]


def test_processes_need_a_plan_and_a_number() -> None:
    assert list(inspect.signature(mine_block).parameters)[:2] == ["plan", "number"]
    assert list(inspect.signature(join_blocks).parameters) == ["plan"]
