"""Distillation of a teacher's scores: the mathematics on whole matrices, and what it must not change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive import loss as loss_module
from hbt_dist.contrastive.distillation import teacher_tensor
from hbt_dist.contrastive.loss import Contrast, contrast
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.world import World
from tests.contrastive.test_loss import check, embeddings, layout_of
from tests.contrastive.tiny import Case, locals_of

ON = {"distillation": {"weight": 0.8, "temperature": 0.6}}
PARTS = ("questions_bD", "passages_ND", "loss", "log_scale")


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_negatives", [1, 3])
@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"directions": "both", "negatives": "sub_batch", "alignment_weight": 0.4},
        {"similarity": "dot", "widths": [5, 2], "temperature": 2.0},
    ],
    ids=str,
)
def test_gradients_are_those_of_whole_matrices(
    world_size: int, num_negatives: int, loss: dict[str, Any]
) -> None:
    check(Case(loss={**loss, **ON}, num_negatives=num_negatives, duplicates=True), world_size)


def test_a_scale_by_the_number_of_ranks_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = loss_module.distil

    def scaled(*given: Any, **named: Any) -> Any:
        settings = given[4].model_copy(update={"weight": given[4].weight * 2})
        return exact(*given[:4], settings, **named)

    case = Case(loss=ON, num_negatives=2)
    check(case, 2)
    monkeypatch.setattr(loss_module, "distil", scaled)
    with pytest.raises(AssertionError):
        check(case, 2)


def contrasted(loss: dict[str, Any], teacher: Tensor | None) -> Contrast:
    case = Case(loss=loss, num_negatives=2)
    rows, settings = embeddings(case, torch.float32), case.loss_settings
    local = locals_of(case, 1, 0)[0]
    return contrast(
        rows["question"].detach(),
        rows["passage"].detach(),
        layout_of(case, local, settings),
        settings,
        scale=1 / settings.temperature,
        teacher_bM=teacher,
    )


def test_rows_without_two_scores_change_nothing_bit_for_bit() -> None:
    teacher = torch.full((12, 3), torch.nan)
    teacher[::2, 1] = 1.0  # one score has nothing to compare with
    off, on = contrasted({}, None), contrasted(ON, teacher)
    for name in PARTS:
        assert torch.equal(getattr(off, name), getattr(on, name)), name
    assert off.further == {}
    assert {name: float(value) for name, value in on.further.items()} == dict.fromkeys(on.further, 0.0)


def test_figures_count_rows_and_candidates() -> None:
    teacher = torch.zeros(12, 3)
    teacher[:3], teacher[3:5, 2], teacher[5, 1:] = torch.nan, torch.nan, torch.nan
    figures = contrasted(ON, teacher).further
    assert float(figures["distilled_rows"]) == pytest.approx(8 / 12)
    assert float(figures["distilled_candidates"]) == pytest.approx((6 * 3 + 2 * 2) / 36)


def test_a_model_with_the_scores_of_its_teacher_has_no_gradient() -> None:
    """Also the mean over ranks: scores of the model itself, in the units of the teacher."""
    case = Case(loss={}, num_negatives=2)
    rows, local = embeddings(case, torch.float32), locals_of(case, 1, 0)[0]
    passages = rows["passage"].detach()
    positives, negatives = passages[:12, None], passages[12:].view(12, 2, -1)
    scores = (torch.cat([positives, negatives], 1) @ rows["question"].detach()[:, :, None])[:, :, 0]
    temperature = case.loss_settings.temperature
    on = contrasted({"distillation": {"temperature": temperature}}, scores)
    assert float(on.further["distillation"]) == pytest.approx(0, abs=1e-6)
    assert_allclose(on.questions_bD, contrasted({}, None).questions_bD, atol=1e-6)
    assert local.teacher_scores_bM is not None


def test_scores_far_apart_stay_finite() -> None:
    teacher = torch.tensor([[3e38, -3e38, 0.0]] * 12)
    on = contrasted({"distillation": {"temperature": 0.01}}, teacher)
    assert all(torch.isfinite(getattr(on, name)).all() for name in PARTS)


def test_a_batch_without_scores_is_refused() -> None:
    with pytest.raises(UserError, match="expected batches with scores of a teacher, got none"):
        teacher_tensor(None, World.alone())


def test_settings_have_bounds() -> None:
    for wrong in ({"weight": 0}, {"temperature": 0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match=r"greater than 0|finite"):
            LossSettings.model_validate({"distillation": wrong})
