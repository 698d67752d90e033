"""Gather, scatter and the agreements between ranks, over real processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hbt_dist.contrastive.world import World
from tests.contrastive import bodies
from tests.contrastive.tiny import Case
from tests.helpers.ranks import run_ranks

ONE = Case(stage=None, num_negatives=1)
STEPS: list[dict[str, Any]] = [
    {"mode": "direct"},
    {"chunk_rows": 1},
    {"chunk_rows": 4},
    {"chunk_rows": 4, "chunk_tokens": 20},
]
CASES = [ONE.but(step=step) for step in STEPS] + [
    ONE.but(loss={"directions": "both"}, step=step) for step in STEPS[:2]
]
CASES += [ONE.but(loss={"directions": "both", "widths": [16, 8, 4]}, step=STEPS[1])]
CASES += [
    ONE.but(loss=loss)
    for loss in (
        {"hardness": {}, "denominators": ["passage_passage"]},
        {"spread_out": {}},
        {"spread_out": {}, "denominators": ["question_question", "passage_question"]},
    )
]


@pytest.fixture(scope="module", params=[2, 4])
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Per rank, what `bodies.everything` found; one start of the processes for all tests."""
    return run_ranks(request.param, "tests.contrastive.bodies:everything", cases=CASES, poisoned_case=ONE)


def test_gather_is_rank_by_rank_and_scatter_sums_to_the_owner(found: list[dict[str, Any]]) -> None:
    world_size = len(found)
    want = torch.arange(world_size).repeat_interleave(2)[:, None].expand(-1, 3).float()
    for rank, result in enumerate(found):
        assert torch.equal(result["gather"]["gathered"], want)
        column = torch.arange(2 * rank, 2 * rank + 2)[:, None].expand(-1, 3) * world_size
        assert torch.equal(result["gather"]["back"], column + 100.0 * sum(range(world_size)))
        size = 2 * world_size * 3 * 4
        assert result["gather"]["traffic"] == {"all_gather": (1, size), "reduce_scatter": (1, size)}


def test_alone_nothing_is_sent() -> None:
    assert bodies.gather_and_scatter(World.alone())["traffic"] == {}


def test_unequal_slices_are_refused_by_every_rank(found: list[dict[str, Any]]) -> None:
    for result in found:
        assert "rank 1: 5 rows with 1 negatives" in result["unequal"]


def test_ranks_agree_on_the_number_of_chunks(found: list[dict[str, Any]]) -> None:
    assert all(result["chunks"] == found[0]["chunks"] for result in found)


def test_collectives_do_not_depend_on_the_number_of_chunks(found: list[dict[str, Any]]) -> None:
    direct, ones, fours, tokens, both, both_ones, widths = found[0]["traffic"][:7]
    passages, questions, scalars = 24 * 16 * 4, 12 * 16 * 4, 9 * 8
    assert direct == ones == fours
    assert direct == {
        "all_gather": (1, passages),
        "reduce_scatter": (1, passages),
        "all_reduce": (2, scalars + 2 * 8),  # and the number of chunks of each role
    }
    assert tokens == direct
    assert both == both_ones
    assert both["all_gather"] == both["reduce_scatter"] == (2, passages + questions)
    calls, num_bytes = both["all_reduce"]
    assert widths == both | {"all_reduce": (calls, num_bytes + 3 * 8)}  # the loss of each width


def test_optional_terms_gather_questions_at_most_once(found: list[dict[str, Any]]) -> None:
    """Each of their figures adds one number to the sum of scalars."""
    direct, both = found[0]["traffic"][0], found[0]["traffic"][4]
    calls, num_bytes = direct["all_reduce"]
    of_passages, spread, of_questions = found[0]["traffic"][7:]
    assert of_passages == direct | {"all_reduce": (calls, num_bytes + 8)}
    assert spread == direct | {"all_gather": both["all_gather"], "all_reduce": (calls, num_bytes + 8)}
    assert of_questions == both | {"all_reduce": (calls, num_bytes + 3 * 8)}


@pytest.mark.parametrize("where", ["nan", "inf"])
def test_a_broken_embedding_stops_every_rank_and_names_the_row(
    found: list[dict[str, Any]], where: str
) -> None:
    rows_per_rank = 12 // len(found)
    for result in found:
        assert result[where]["what"] == "embedding"
        assert result[where]["rows"] == [12 - rows_per_rank + 1]  # the second row of the last rank
        assert "step 0 (mixed)" in result[where]["text"]
