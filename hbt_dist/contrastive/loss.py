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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from hbt_dist.contrastive.denominators import further_parts
from hbt_dist.contrastive.distillation import distil
from hbt_dist.contrastive.false_negatives import FalseNegatives, Partition
from hbt_dist.contrastive.hardness import hardness_weights
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.partition import Index, Part, segments
from hbt_dist.contrastive.row_losses import UNMASKED, infonce_rows
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.spread_out import Pairs, spread_out
from hbt_dist.contrastive.term_settings import SpreadOutSettings
from hbt_dist.contrastive.widths import Cut


@dataclass
class Contrast:
    """Loss of the local rows and its gradients, of the mean over the local rows."""

    loss: Tensor  # () float64: the sum below, weighted
    info_nce: Tensor  # () float64: over the widths, weighted
    info_nce_of_widths: dict[int, Tensor]  # () float64 each; empty without `widths`
    alignment: Tensor  # () float64, 0 without alignment
    further: dict[str, Tensor]  # () float64 each: figures of optional parts, by name
    questions_bD: Tensor  # gradient with respect to the local questions
    passages_ND: Tensor  # this rank's part of the gradient with respect to every passage
    questions_BD: Tensor | None  # the same for every question, if questions are columns
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
    masks: FalseNegatives | None = None,
    teacher_bM: Tensor | None = None,
) -> Contrast:
    """Contrast the local rows with the global batch: InfoNCE, and the further parts that are switched on.

    Args:
        questions_bD: local questions.
        passages_ND: gathered passages.
        layout: where the positives are and what is masked.
        settings: the objective, its weights as numbers (`LossSettings.at`); its temperature is not read.
        scale: 1 / temperature.
        questions_BD: gathered questions, if `settings.gathers_questions`.
        aligned_bD: local questions in a second language, needed for alignment.
        masks: leave out columns by similarity; count them at the largest width.
        teacher_bM: scores of a teacher for the local positives and hard negatives, needed for distillation.
    """
    b = layout.num_rows
    assert isinstance(settings.info_nce_weight, float)
    share = (1.0 - settings.alignment_weight) * settings.info_nce_weight
    num_losses = 2 * b if settings.directions == "both" else b
    weight = share / num_losses
    every = [questions_bD, passages_ND]
    if settings.gathers_questions:
        assert questions_BD is not None
        every.append(questions_BD)
    gradients = [torch.zeros_like(embeddings) for embeddings in every]
    log_scale = torch.zeros((), dtype=torch.float64, device=questions_bD.device)
    shares = settings.shares_of_widths(questions_bD.shape[1])
    of_widths: dict[int, Tensor] = {}
    further: dict[str, Tensor] = {}
    for width, width_share in shares.items():
        cuts = [
            Cut(embeddings, gradient, width, rescale=settings.similarity == "cosine")
            for embeddings, gradient in zip(every, gradients, strict=True)
        ]
        partition = None if masks is None else partial(masks.partition, counted=width == max(shares))
        sizes = {"scale": scale, "weight": width_share * weight}
        total, slope, figures = _infonce(cuts, layout, settings, partition, **sizes)
        of_widths[width] = total * (1.0 / num_losses)
        log_scale += slope
        if settings.spread_out is not None:
            figures["spread_out"] = _spread_out(cuts, layout, settings, settings.spread_out, width_share)
        for name, figure in figures.items():
            further[name] = further.get(name, 0.0) + width_share * figure
        for cut in cuts:
            cut.carry_back()
    info_nce = torch.stack([of_widths[width] * part for width, part in shares.items()]).sum()

    questions_grad, passages_grad, *_ = gradients
    aligned_grad = None
    alignment = torch.zeros_like(log_scale)
    if settings.alignment_weight > 0:
        assert aligned_bD is not None
        aligned_grad = torch.zeros_like(aligned_bD)
        for rows, (columns,) in segments(layout, [layout.sub_batch_N], questions_bD.device):
            alignment += _kl_rows(
                (questions_bD, questions_grad, aligned_bD, aligned_grad),
                (passages_ND, passages_grad),
                (rows, columns),
                scale=1.0 / settings.alignment_temperature,
                weight=settings.alignment_weight / b,
                row_chunk=settings.row_chunk,
            )
        alignment /= b
    loss = share * info_nce + settings.alignment_weight * alignment
    if settings.spread_out is not None:
        loss += settings.spread_out.weight * further["spread_out"]
    if settings.distillation is not None:
        assert teacher_bM is not None
        distilled = distil(
            (questions_bD, questions_grad),
            (passages_ND, passages_grad),
            *(teacher_bM, layout, settings.distillation),
            scale=scale,
        )
        loss += settings.distillation.weight * distilled.loss
        log_scale += distilled.log_scale
        further |= distilled.figures
    return Contrast(
        loss=loss,
        info_nce=info_nce,
        info_nce_of_widths=of_widths if settings.widths else {},
        alignment=alignment,
        further=further,
        questions_bD=questions_grad,
        passages_ND=passages_grad,
        questions_BD=gradients[2] if settings.scatters_questions else None,
        aligned_bD=aligned_grad,
        log_scale=log_scale,
    )


def _infonce(
    cuts: list[Cut],
    layout: Layout,
    settings: LossSettings,
    partition: Callable[[], Partition] | None,
    *,
    scale: float,
    weight: float,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the sum of the local rows' losses, `weight` times its derivative by log(scale), and figures.

    Args:
        cuts: local questions, gathered passages, and where needed gathered questions; the gradients of
            `weight` times the sum are added to theirs.
        partition: begins the masks by similarity of one partition function per row.
    """
    questions, passages, *every_question = cuts
    device = questions.embeddings.device
    positives_B = layout.positive_columns(device)
    local = layout.local_rows
    local_columns = slice(layout.first_column, layout.first_column + layout.num_rows)
    local_positives = passages.embeddings[local_columns]
    group_N, hardness = layout.group_N, settings.hardness
    group_B = None if group_N is None else group_N[positives_B]
    sizes = {"scale": scale, "weight": weight}
    # Gradients of the vectors on the left of the scores, apart from those of the same vectors as columns.
    questions_grad = torch.zeros_like(questions.embeddings)
    positives_grad = torch.zeros_like(local_positives) if settings.has_passages_as_rows else None
    labels = [] if group_N is None or group_B is None else [(group_B[local], group_N)]
    if settings.equation == "paper_eq1":
        is_positive_N = torch.zeros(passages.embeddings.shape[0], dtype=torch.bool, device=device)
        is_positive_N[positives_B] = True
        labels.append((is_positive_N.new_ones(layout.num_rows), is_positive_N))
    similar = None if partition is None else partition()
    part = Part(
        *(questions.embeddings, questions_grad, passages.embeddings, passages.gradient),
        sub_batch_M=layout.sub_batch_N,
        labels=labels,
        similar=None if similar is None else similar.similar("question", "passage"),
        weigh=None if hardness is None else hardness_weights(hardness, layout, scale, device),
        target_b=positives_B[local],
    )
    denominators = further_parts(
        settings.denominators or [],
        layout,
        questions=(questions.embeddings, questions_grad),
        positives=None if positives_grad is None else (local_positives, positives_grad),
        every_question=(every_question[0].embeddings, every_question[0].gradient) if every_question else None,
        passages=(passages.embeddings, passages.gradient),
        similar=similar,
    )
    total = _over_segments([part, *denominators.values()], layout, settings, **sizes)
    if settings.directions == "both":
        assert positives_grad is not None
        part = Part(
            *(local_positives, positives_grad, every_question[0].embeddings, every_question[0].gradient),
            sub_batch_M=layout.sub_batch_B,
            labels=[] if group_B is None else [(group_B[local], group_B)],
            similar=None if partition is None else partition().similar("positive", "question"),
            target_b=torch.arange(local.start, local.stop, device=device),
        )
        total = total + _over_segments([part], layout, settings, **sizes)
    questions.gradient += questions_grad
    slope = inner_product(questions_grad, questions.embeddings)
    if positives_grad is not None:
        slope = slope + inner_product(positives_grad, local_positives)
        passages.gradient[local_columns] += positives_grad
    shares = {name: part.share for name, part in denominators.items() if part.share is not None}
    return total, slope, {f"{name}_share": share / layout.num_rows for name, share in shares.items()}


def _spread_out(
    cuts: list[Cut], layout: Layout, settings: LossSettings, spread: SpreadOutSettings, width_share: float
) -> Tensor:
    """Return the regulariser at one width, the sum over its texts; add its gradient to the cuts'."""
    questions, passages, *every_question = cuts
    device = questions.embeddings.device
    pairs = Pairs(layout.group_B, layout.world_size * layout.num_rows, layout.local_rows, device)
    local_columns = slice(layout.first_column, layout.first_column + layout.num_rows)
    vectors = []
    if "questions" in spread.texts:
        vectors.append((every_question[0].embeddings, questions.gradient))
    if "passages" in spread.texts:
        positives = passages.embeddings[layout.positive_columns(device)]
        vectors.append((positives, passages.gradient[local_columns]))
    weight = spread.weight * width_share
    of_texts = [spread_out(*each, pairs, weight=weight, chunk=settings.row_chunk) for each in vectors]
    return torch.stack(of_texts).sum()


def inner_product(a_bD: Tensor, b_bD: Tensor) -> Tensor:
    """Return the sum of the products of all entries, () float64, in parts that fit a CPU's cache."""
    rows = 65_536 if a_bD.device.type == "cuda" else 256
    parts = zip(a_bD.split(rows), b_bD.split(rows), strict=True)
    return torch.stack([(a * b).sum(dtype=torch.float64) for a, b in parts]).sum()


def _over_segments(
    parts: Sequence[Part],
    layout: Layout,
    settings: LossSettings,
    *,
    scale: float,
    weight: float,
) -> Tensor:
    """Return the sum of the row losses; add to the gradients of all parts.

    Args:
        parts: of one partition function; the first holds the positives.
    """
    device = parts[0].rows_bD.device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for rows, columns_of_parts in segments(layout, [part.sub_batch_M for part in parts], device):
        cut = list(zip(parts, columns_of_parts, strict=True))
        targets = [part.target_of(rows, columns) for part, columns in cut]
        assert targets[0] is not None
        blocks = [part.block(rows, columns, of) for (part, columns), of in zip(cut, targets, strict=True)]
        is_plain = len(blocks) == 1 and blocks[0].is_plain
        kernel = UNMASKED[settings.kernel] if is_plain else infonce_rows
        total += kernel(blocks, targets[0], scale=scale, weight=weight, row_chunk=settings.row_chunk)
        for (part, columns), block in zip(cut, blocks, strict=True):
            part.add_gradients(block, rows, columns)
    return total


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
