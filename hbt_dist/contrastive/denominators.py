"""Add texts of the same role to the partition function of a row: further negatives from present embeddings.

For row i with question q_i and positive passage p_i the partition function can also hold

* question_question: exp(s(q_i, q_j)) for the questions of other rows;
* passage_passage: exp(s(p_i, d)) for every passage of other rows, hard negatives too. sentence-transformers
  takes all passages as well; GTE (arXiv 2308.03281) has no hard negatives here, and Qwen3-Embedding (arXiv
  2506.05176) does not say whether its documents hold them;
* passage_question: exp(s(p_i, q_j)) for every question, q_i too: as GTE prints it and sentence-transformers
  computes it, the pair of the row counts twice.

A question has the group of its passage: translations and equal texts are left out by group, like passages.
Without groups a row leaves out itself and, among passages, its hard negatives. Costs b x B scores for columns
of questions and b x N for passages, in the buffer of the row loop.

Shapes: b local rows, B global rows, N gathered passages, D wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hbt_dist.contrastive.false_negatives import Partition, Role
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.partition import Part
from hbt_dist.contrastive.term_settings import Denominator

_ROLES: Mapping[Denominator, tuple[Role, Role]] = {
    "question_question": ("question", "question"),
    "passage_passage": ("positive", "passage"),
    "passage_question": ("positive", "question"),
}
# Embeddings and the gradient at them.
Vectors = tuple[Tensor, Tensor]


def further_parts(
    names: Sequence[Denominator],
    layout: Layout,
    *,
    questions: Vectors,
    positives: Vectors | None,
    every_question: Vectors | None,
    passages: Vectors,
    similar: Partition | None,
) -> dict[str, Part]:
    """Return the parts of the partition function that `loss.denominators` names.

    Args:
        names: of the settings.
        layout: has groups and sub-batches.
        questions, positives: of the local rows, (b, D); question_question needs no positives.
        every_question: (B, D); passage_passage needs none.
        passages: gathered passages, (N, D).
        similar: masks by similarity of this partition function.
    """
    device = questions[0].device
    row_B = torch.arange(layout.world_size * layout.num_rows, device=device)
    group_N, local = layout.group_N, layout.local_rows
    group_B = None if group_N is None else group_N[layout.positive_columns(device)]
    parts: dict[str, Part] = {}
    for name in names:
        rows = questions if name == "question_question" else positives
        assert rows is not None
        labels, target_b = [], None
        if name == "passage_passage":
            columns, sub_batch = passages, layout.sub_batch_N
            labels = [(row_B[local], layout.rows_of_columns(device))]
            if group_B is not None and group_N is not None:
                labels.append((group_B[local], group_N))
        else:
            assert every_question is not None
            columns, sub_batch = every_question, layout.sub_batch_B
            if group_B is not None:
                labels = [(group_B[local], group_B)]
            elif name == "question_question":
                labels = [(row_B[local], row_B)]
            if name == "passage_question":
                target_b = row_B[local]
        parts[name] = Part(
            *(*rows, *columns, sub_batch, labels),
            similar=None if similar is None else similar.similar(*_ROLES[name]),
            target_b=target_b,
            share=torch.zeros((), dtype=torch.float64, device=device),
        )
    return parts
