"""Masks by similarity against whole matrices and autograd, and their counts against loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hbt_dist.contrastive.false_negatives import FalseNegatives, _Mask
from hbt_dist.contrastive.settings import LossSettings
from tests.contrastive.test_loss import check, contrast_of_rank, embeddings, masks_of
from tests.contrastive.tiny import Case, locals_of

SETTINGS: list[dict[str, Any]] = [
    {"margin": 0.1},
    {"margin": -0.2},
    {"margin": -0.2, "languages": "positive"},
    {"relative_margin": 0.3, "columns": "in_batch"},
    {"margin": 0.0, "columns": "hard_negatives"},
    {"margin": 0.0, "guide": "guide"},
    {"relative_margin": -0.3, "guide": "guide", "columns": "in_batch"},
]
OBJECTIVES: list[dict[str, Any]] = [
    {"directions": "both"},
    {"directions": "both", "negatives": "sub_batch", "alignment_weight": 0.4},
    {"equation": "paper_eq1", "negatives": "sub_batch"},
    {"directions": "both", "widths": [5, 3], "width_weights": [1.0, 0.5]},
    {"denominators": ["question_question", "passage_passage", "passage_question"], "hardness": {}},
    {"similarity": "dot", "temperature": 2.0, "widths": [4, 2], "mask_false_negatives": False},
]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("masks", SETTINGS, ids=str)
def test_masks_give_the_loss_and_gradients_of_whole_matrices(masks: dict[str, Any], world_size: int) -> None:
    for objective in OBJECTIVES:
        loss = {**objective, "false_negatives": masks, "row_chunk": 2}
        for num_negatives in (0, 2):
            if num_negatives or objective.get("equation") != "paper_eq1":
                check(Case(loss=loss, num_negatives=num_negatives, duplicates=True), world_size)


def _without_scale(masks: FalseNegatives, *arguments: Any, **options: Any) -> None:
    INIT(masks, *arguments, **options)
    masks.unit = 1.0


INIT, ABOVE = FalseNegatives.__init__, _Mask._above_limit


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (FalseNegatives, "__init__", _without_scale),
        (_Mask, "_above_limit", lambda *arguments: ~ABOVE(*arguments)),
        (_Mask, "_choose", lambda *_: None),
    ],
    ids=["margin without the scale", "inverted comparison", "all columns"],
)
def test_wrong_masks_would_fail(owner: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = {"margin": 0.15, "columns": "in_batch"}
    case = Case(loss={"directions": "both", "false_negatives": masks}, num_negatives=2)
    check(case, 2)
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError):
        check(case, 2)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"directions": "both", "negatives": "sub_batch"},
        {"equation": "paper_eq1"},
        {"directions": "both", "widths": [5, 2]},
    ],
    ids=str,
)
def test_counts_are_those_of_a_loop_over_all_pairs(loss: dict[str, Any], world_size: int) -> None:
    case = Case(
        loss={**loss, "false_negatives": {"margin": -0.7}, "row_chunk": 5}, num_negatives=1, duplicates=True
    )
    rows = {role: embedding.detach() for role, embedding in embeddings(case).items()}
    settings = case.loss_settings
    every = []
    for rank, local in enumerate(locals_of(case, world_size, 0)):
        masks = masks_of(case, local, settings)
        assert masks is not None
        contrast_of_rank(case, settings, rank, local, rows, masks)
        every.append(masks.counts())
    got = masks.of_counts(torch.stack(every).sum(0).tolist())
    want = plain_counts(rows, locals_of(case, world_size, 0)[0], settings)
    languages = [got.languages.index(number) for number in range(5)]
    assert (got.bare_rows, got.rows) == want[2:]
    for table, counts in ((got.masked_LL, want[0]), (got.columns_LL, want[1])):
        assert [[table[i][j] for j in languages] for i in languages] == counts.tolist()
    assert want[0].sum() > 0
    assert want[2] > 0


def plain_counts(
    rows: dict[str, Tensor], local: Any, settings: LossSettings
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Masked columns and all negatives by pair of languages; rows without negatives, and rows."""
    q, p, W = rows["question"], rows["passage"], local.world_size
    B, N = len(q), len(p)
    b = B // W
    target = [row // b * (N // W) + row % b for row in range(B)]
    group, masks = local.passage_group_N, settings.false_negatives
    assert masks is not None
    masked, columns = np.zeros((5, 5), int), np.zeros((5, 5), int)
    bare = had = 0

    def add(negatives: list[tuple[float, float, int, int]]) -> None:
        nonlocal bare, had
        above = [score > positive + masks.margin for score, positive, *_ in negatives]
        for is_above, (*_, question, passage) in zip(above, negatives, strict=True):
            masked[question, passage] += is_above
            columns[question, passage] += 1
        had += bool(negatives)
        bare += bool(negatives) and all(above)

    question_language, passage_language = local.batch.question_language, local.passage_language_N
    for row in range(B):
        add(
            [
                (float(q[row] @ p[column]), float(q[row] @ p[target[row]]), question_language[row], language)
                for column, language in enumerate(passage_language)
                if group[column] != group[target[row]]
                and (settings.equation == "standard" or column not in target)
                and (settings.negatives == "global" or local.sub_batch_B[row] == local.sub_batch_N[column])
            ]
        )
    for row in range(B) if settings.directions == "both" else ():
        positive = p[target[row]]
        add(
            [
                (
                    float(q[other] @ positive),
                    float(q[row] @ positive),
                    language,
                    passage_language[target[row]],
                )
                for other, language in enumerate(question_language)
                if group[target[other]] != group[target[row]]
                and (settings.negatives == "global" or local.sub_batch_B[row] == local.sub_batch_B[other])
            ]
        )
    return masked, columns, bare, had


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({}, "set either margin"),
        ({"margin": 0.1, "relative_margin": 0.1}, "set either margin"),
        ({"relative_margin": -5.0}, "greater than or equal to -1"),
        ({"margin": 2.5}, "between -2 and 2"),
        ({"margin": float("nan")}, "finite"),
        ({"margin": 0.1, "columns": "hard"}, "in_batch"),
    ],
)
def test_masks_that_mean_nothing_are_refused(masks: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSettings(false_negatives=masks)


def test_liger_has_no_masks() -> None:
    with pytest.raises(ValueError, match="false_negatives needs masks: set kernel to auto or rows"):
        LossSettings(false_negatives={"margin": 0.1}, kernel="liger")
