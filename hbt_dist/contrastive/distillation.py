"""Distil the scores of a teacher: KL divergence over the candidates of each row.

The candidates of a row are its positive and its hard negatives, as far as the teacher has scored them. The
target is softmax(teacher / temperature of the teacher), the model's distribution is softmax(scale * score)
with the scale of InfoNCE. A row with fewer than two scored candidates adds nothing.

Nothing but a row's texts is needed: no collective, and b x (1 + n) scores. The mean runs over all rows of the
global batch, rows without scores included: a row weighs the same in every batch and on every number of ranks.
A learned temperature gets the gradient of this part too, so the step follows the loss that it reports.

Shapes: b local rows, n hard negatives per row, M = 1 + n candidates, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.term_settings import DistillationSettings
from hbt_dist.contrastive.world import World

_NO_PROBABILITY = -1e4  # a logarithm; its exponential is exactly 0, and its products with 0 are no NaN


@dataclass(frozen=True)
class Distilled:
    """What the teacher's scores add, over the local rows."""

    loss: Tensor  # () float64, mean over rows
    log_scale: Tensor  # () float64, gradient of `weight` times the mean by log(scale)
    figures: dict[str, Tensor]  # () float64 each: KL, shares of the rows and of the candidates that count


def teacher_tensor(scores_bM: NDArray[np.float32] | None, world: World) -> Tensor:
    """Return the teacher's scores of the local rows on the device, (b, M).

    Raises:
        UserError: the batch has none.
    """
    if scores_bM is None:
        raise UserError(
            "loss.distillation",
            "expected batches with scores of a teacher, got none",
            "add scores to the data (docs/data.md), or remove loss.distillation",
        )
    return move(torch.from_numpy(scores_bM), world.device)


def distil(
    questions: tuple[Tensor, Tensor],
    passages: tuple[Tensor, Tensor],
    teacher_bM: Tensor,
    layout: Layout,
    settings: DistillationSettings,
    *,
    scale: float,
) -> Distilled:
    """Return the divergence of the local rows; add its gradient, times the weight, to those given.

    Args:
        questions: of this rank and their gradient, (b, D) each.
        passages: of all ranks and their gradient, (N, D) each; only columns of this rank are used.
        teacher_bM: the teacher's scores, NaN where there is none.
        layout: where this rank's columns are.
        settings: weight, and temperature of the teacher.
        scale: 1 / temperature of the model.
    """
    questions_bD, questions_grad = questions
    positives_bD, negatives_bnD = _candidates(passages[0], layout)
    scores_bM = torch.cat(
        [
            torch.linalg.vecdot(questions_bD, positives_bD)[:, None],
            torch.bmm(negatives_bnD, questions_bD[:, :, None])[:, :, 0],
        ],
        dim=1,
    ).mul_(scale)
    scored_bM = ~torch.isnan(teacher_bM)
    used_bM = scored_bM & (scored_bM.sum(1, keepdim=True) > 1)
    log_target_bM = _log_softmax(teacher_bM.to(scores_bM.dtype), used_bM, settings.temperature)
    log_model_bM = _log_softmax(scores_bM, used_bM)
    target_bM = log_target_bM.exp()
    kl_bM = target_bM * (log_target_bM - log_model_bM)

    rows = layout.num_rows
    gradient_bM = (log_model_bM.exp() - target_bM).mul_(settings.weight / rows)
    slope = (gradient_bM * scores_bM).sum(dtype=torch.float64)
    gradient_bM.mul_(scale)
    gradient_b1, gradient_bn = gradient_bM[:, :1], gradient_bM[:, 1:]
    questions_grad.addcmul_(gradient_b1, positives_bD)
    questions_grad.add_(torch.bmm(gradient_bn[:, None, :], negatives_bnD)[:, 0])
    positives_grad, negatives_grad = _candidates(passages[1], layout)
    positives_grad.addcmul_(gradient_b1, questions_bD)
    negatives_grad.baddbmm_(gradient_bn[:, :, None], questions_bD[:, None, :])
    loss = kl_bM.sum(dtype=torch.float64) / rows
    figures = {
        "distillation": loss,
        "distilled_rows": used_bM.any(1).double().mean(),
        "distilled_candidates": used_bM.double().mean(),
    }
    return Distilled(loss, slope, figures)


def _candidates(passages_ND: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
    """Return views of this rank's positives (b, D) and hard negatives (b, n, D)."""
    first, b, n = layout.first_column, layout.num_rows, layout.num_negatives
    negatives = passages_ND[first + b : first + b * (1 + n)]
    return passages_ND[first : first + b], negatives.view(b, n, passages_ND.shape[1])


def _log_softmax(values_bM: Tensor, used_bM: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(values / temperature) over the used columns of each row.

    In a row without used columns all are equal: the two distributions agree there, and no gradient is NaN.
    """
    masked_bM = values_bM.masked_fill(~used_bM, -torch.inf)
    below_bM = (masked_bM - masked_bM.amax(1, keepdim=True)).div_(temperature)
    below_bM.masked_fill_(~used_bM.any(1, keepdim=True), 0.0)
    return torch.log_softmax(below_bM.clamp_(min=_NO_PROBABILITY), 1)
