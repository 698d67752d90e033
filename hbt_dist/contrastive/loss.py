"""Compute row-chunked InfoNCE over a global batch: loss and gradients, without a B x N matrix.

Each rank scores its own questions against every gathered passage, `row_chunk` questions at a time, and
writes the gradients as it goes: scores take row_chunk x N floats instead of B x N (67 MB instead of 17 GB at
N = 65,536 and row_chunk = 256). Costs one extra read of the passages per chunk. The gradients are exact
(tests/contrastive/test_loss.py); scores are computed in the precision of the embeddings given, which the
step makes float32: in bfloat16 the gradient of a well-ranked positive is lost. Several widths take turns
(`hbt_dist.contrastive.widths`): scores of one width exist at a time, and each takes three products of
b x N x w and the passes over b x N scores.

No autograd graph and no collective: embeddings go in, gradients come out, the caller moves them.

Shapes: b questions of this rank, B of all ranks, n hard negatives per row, N = B * (1 + n) gathered
passages, D embedding width, r rows of one chunk. Gathered passages are rank by rank; each rank
contributes its b positives, then its negatives row by row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.row_losses import UNMASKED, Exclude, infonce_rows
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.widths import Cut

# Rows or columns of a sub-batch: indices, or a full slice, which copies nothing.
Index = Tensor | slice


@dataclass
class Contrast:
    """Loss of the local rows and its gradients, of the mean over the local rows."""

    loss: Tensor  # () float64: the sum below, weighted
    info_nce: Tensor  # () float64: over the widths, weighted
    info_nce_of_widths: dict[int, Tensor]  # () float64 each; empty without `widths`
    alignment: Tensor  # () float64, 0 without alignment
    questions_bD: Tensor  # gradient with respect to the local questions
    passages_ND: Tensor  # this rank's part of the gradient with respect to every passage
    questions_BD: Tensor | None  # the same for every question, if both directions are trained
    aligned_bD: Tensor | None  # gradient with respect to the questions in the other language
    log_scale: Tensor  # () float64: gradient with respect to log(1 / temperature)


def contrast(
    questions_bD: Tensor,
    passages_ND: Tensor,
    layout: Layout,
    settings: LossSettings,
    *,
    scale: float,
    questions_BD: Tensor | None = None,
    aligned_bD: Tensor | None = None,
) -> Contrast:
    """Contrast the local rows with the global batch: InfoNCE, and alignment if its weight is above 0.

    Args:
        questions_bD: local questions.
        passages_ND: gathered passages.
        layout: where the positives are and what is masked.
        settings: the objective; its temperature is not read.
        scale: 1 / temperature.
        questions_BD: gathered questions, needed for ``directions: both``.
        aligned_bD: local questions in a second language, needed for alignment.
    """
    b = layout.num_rows
    share = 1.0 - settings.alignment_weight
    weight = share / (2 * b if settings.directions == "both" else b)
    every = [questions_bD, passages_ND]
    if settings.directions == "both":
        assert questions_BD is not None
        every.append(questions_BD)
    gradients = [torch.zeros_like(embeddings) for embeddings in every]
    log_scale = torch.zeros((), dtype=torch.float64, device=questions_bD.device)
    shares = settings.shares_of_widths(questions_bD.shape[1])
    of_widths: dict[int, Tensor] = {}
    for width, width_share in shares.items():
        cuts = [
            Cut(embeddings, gradient, width, rescale=settings.similarity == "cosine")
            for embeddings, gradient in zip(every, gradients, strict=True)
        ]
        total, slope = _infonce(cuts, layout, settings, scale=scale, weight=width_share * weight)
        of_widths[width] = total * (weight / share)
        log_scale += slope
        for cut in cuts:
            cut.carry_back()
    info_nce = torch.stack([of_widths[width] * part for width, part in shares.items()]).sum()

    questions_grad, passages_grad, *_ = gradients
    aligned_grad = None
    alignment = torch.zeros_like(log_scale)
    if settings.alignment_weight > 0:
        assert aligned_bD is not None
        aligned_grad = torch.zeros_like(aligned_bD)
        for rows, columns in _segments(
            layout.sub_batch_B, layout.sub_batch_N, layout.local_rows, questions_bD.device
        ):
            alignment += _kl_rows(
                (questions_bD, questions_grad, aligned_bD, aligned_grad),
                (passages_ND, passages_grad),
                (rows, columns),
                scale=1.0 / settings.alignment_temperature,
                weight=settings.alignment_weight / b,
                row_chunk=settings.row_chunk,
            )
        alignment /= b
    return Contrast(
        loss=share * info_nce + settings.alignment_weight * alignment,
        info_nce=info_nce,
        info_nce_of_widths=of_widths if settings.widths else {},
        alignment=alignment,
        questions_bD=questions_grad,
        passages_ND=passages_grad,
        questions_BD=gradients[2] if len(gradients) == 3 else None,
        aligned_bD=aligned_grad,
        log_scale=log_scale,
    )


def _infonce(
    cuts: list[Cut], layout: Layout, settings: LossSettings, *, scale: float, weight: float
) -> tuple[Tensor, Tensor]:
    """Return the sum of the local rows' losses, and `weight` times its derivative by log(scale).

    Args:
        cuts: local questions, gathered passages, and for both directions gathered questions; the gradients of
            `weight` times the sum are added to theirs.
    """
    questions, passages, *every_question = cuts
    device = questions.embeddings.device
    positives_B = layout.positive_columns(device)
    local = layout.local_rows
    group_N = layout.group_N
    total, questions_grad = _over_segments(
        questions.embeddings,
        passages.embeddings,
        passages.gradient,
        target_b=positives_B[local],
        segments=_segments(layout.sub_batch_B, layout.sub_batch_N, local, device),
        groups=None if group_N is None else (group_N[positives_B[local]], group_N),
        positives_B=positives_B if settings.equation == "paper_eq1" else None,
        scale=scale,
        weight=weight,
        settings=settings,
    )
    questions.gradient += questions_grad
    slope = inner_product(questions_grad, questions.embeddings)
    for every in every_question:
        local_columns = slice(layout.first_column, layout.first_column + layout.num_rows)
        local_positives = passages.embeddings[local_columns]
        group_B = None if group_N is None else group_N[positives_B]
        back, local_positives_grad = _over_segments(
            local_positives,
            every.embeddings,
            every.gradient,
            target_b=torch.arange(local.start, local.stop, device=device),
            segments=_segments(layout.sub_batch_B, layout.sub_batch_B, local, device),
            groups=None if group_B is None else (group_B[local], group_B),
            positives_B=None,
            scale=scale,
            weight=weight,
            settings=settings,
        )
        total = total + back
        slope = slope + inner_product(local_positives_grad, local_positives)
        passages.gradient[local_columns] += local_positives_grad
    return total, slope


def inner_product(a_bD: Tensor, b_bD: Tensor) -> Tensor:
    """Return the sum of the products of all entries, () float64, in parts that fit a CPU's cache."""
    rows = 65_536 if a_bD.device.type == "cuda" else 256
    parts = zip(a_bD.split(rows), b_bD.split(rows), strict=True)
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in parts]).sum()


def _segments(
    row_labels_B: NDArray[np.int64] | None,
    column_labels: NDArray[np.int64] | None,
    local: slice,
    device: torch.device,
) -> Iterator[tuple[Index, Index]]:
    """Yield (local row indices, column indices) of each sub-batch; without sub-batches, two full slices."""
    if row_labels_B is None or column_labels is None:
        yield slice(None), slice(None)
        return
    labels = row_labels_B[local]
    for label in np.unique(labels):  # on the host, which would wait for sizes that the device finds
        rows, columns = np.flatnonzero(labels == label), np.flatnonzero(column_labels == label)
        yield move(torch.from_numpy(rows), device), move(torch.from_numpy(columns), device)


def _over_segments(
    rows_bD: Tensor,
    columns_MD: Tensor,
    columns_grad_MD: Tensor,
    *,
    target_b: Tensor,
    segments: Iterator[tuple[Index, Index]],
    groups: tuple[Tensor, Tensor] | None,
    positives_B: Tensor | None,
    scale: float,
    weight: float,
    settings: LossSettings,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the row losses and the gradient of the rows; add to `columns_grad_MD`."""
    is_positive = None
    if positives_B is not None:
        is_positive = torch.zeros(columns_MD.shape[0], dtype=torch.bool, device=columns_MD.device)
        is_positive[positives_B] = True
    total = torch.zeros((), dtype=torch.float64, device=rows_bD.device)
    rows_grad = torch.empty(0)
    for rows, columns in segments:
        subset = columns_MD[columns]
        grad = columns_grad_MD if isinstance(columns, slice) else torch.zeros_like(subset)
        target = target_b if isinstance(columns, slice) else torch.searchsorted(columns, target_b[rows])
        exclude = _exclusion(
            target,
            None if groups is None else (groups[0][rows], groups[1][columns]),
            None if is_positive is None else is_positive[columns],
        )
        kernel = UNMASKED[settings.kernel] if exclude is None else partial(infonce_rows, exclude=exclude)
        loss, part_grad = kernel(
            rows_bD[rows], subset, grad, target, scale=scale, weight=weight, row_chunk=settings.row_chunk
        )
        if isinstance(columns, slice):
            return loss, part_grad
        total += loss
        if not rows_grad.numel():
            rows_grad = torch.empty_like(rows_bD)
        rows_grad[rows] = part_grad
        columns_grad_MD.index_add_(0, columns, grad)
    return total, rows_grad


def _exclusion(
    target_b: Tensor, groups: tuple[Tensor, Tensor] | None, is_positive: Tensor | None
) -> Exclude | None:
    """Return a mask per chunk: columns of the positive's group, for Eq. 1 all positives; never the target."""
    if groups is None and is_positive is None:
        return None

    def exclude(start: int, stop: int) -> Tensor:
        masks = []
        if groups is not None:
            masks.append(groups[1][None, :] == groups[0][start:stop, None])
        if is_positive is not None:
            masks.append(is_positive[None, :].expand(stop - start, -1))
        mask = masks[0] | masks[1] if len(masks) == 2 else masks[0].clone()
        return mask.scatter_(1, target_b[start:stop, None], False)

    return exclude


def _kl_rows(
    rows: tuple[Tensor, Tensor, Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    segment: tuple[Index, Index],
    *,
    scale: float,
    weight: float,
    row_chunk: int,
) -> Tensor:
    """Return the sum over rows of KL(softmax(second language) || softmax(first)); add to all gradients.

    Both languages' questions receive gradients, as in the LaKDA loss (arXiv 2509.06195).

    Args:
        rows: questions, their gradient, questions in the second language, their gradient, each (b, D).
        columns: passages and their gradient, (N, D).
        segment: rows and columns of a sub-batch.
    """
    questions, questions_grad, aligned, aligned_grad = rows
    passages, passages_grad = columns
    row_indices, column_indices = segment
    subset = passages[column_indices]
    subset_grad = passages_grad if isinstance(column_indices, slice) else torch.zeros_like(subset)
    rows_of_segment = torch.arange(questions.shape[0], device=questions.device)[row_indices]
    total = torch.zeros((), dtype=torch.float64, device=questions.device)
    for index in rows_of_segment.split(row_chunk):
        question_rD, aligned_rD = questions[index] * scale, aligned[index] * scale
        log_p_rM = torch.log_softmax(question_rD @ subset.T, 1)
        log_aligned_rM = torch.log_softmax(aligned_rD @ subset.T, 1)
        aligned_rM = log_aligned_rM.exp()
        gap_rM = log_aligned_rM.sub_(log_p_rM)
        kl_r1 = (aligned_rM * gap_rM).sum(1, keepdim=True)
        total += kl_r1.sum(dtype=torch.float64)
        question_gradient_rM = log_p_rM.exp_().sub_(aligned_rM).mul_(weight)
        aligned_gradient_rM = gap_rM.sub_(kl_r1).mul_(aligned_rM).mul_(weight)
        questions_grad[index] += (question_gradient_rM @ subset).mul_(scale)
        aligned_grad[index] += (aligned_gradient_rM @ subset).mul_(scale)
        subset_grad.addmm_(question_gradient_rM.T, question_rD).addmm_(aligned_gradient_rM.T, aligned_rD)
    if not isinstance(column_indices, slice):
        passages_grad.index_add_(0, column_indices, subset_grad)
    return total
