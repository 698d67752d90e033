"""Weigh negatives by how hard they are: exp(strength * score), where the score is a constant.

EmbeddingGemma (arXiv 2509.20354) weighs a row's hard negatives with strength 5, arXiv 2503.04812 the columns
of other rows with strength 9. The scores are those of the same width, without temperature. The weights are
for questions times passages only, as in sentence-transformers. Costs one pass over a chunk's scores for
columns of other rows, next to nothing for hard negatives.

Shapes: b local rows, K = 1 + n passages of a row, M columns, r rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.partition import Index
from hbt_dist.contrastive.row_losses import Weigh
from hbt_dist.contrastive.term_settings import HardnessSettings


def hardness_weights(
    settings: HardnessSettings, layout: Layout, scale: float, device: torch.device
) -> Callable[[Index, Index, Tensor | None], Weigh]:
    """Return what weighs the passages of each sub-batch's rows; positives have weight 1.

    Args:
        settings: which columns, and how strongly.
        layout: where positives and hard negatives are.
        scale: 1 / temperature, which the scores have been multiplied by.
        device: of the scores.
    """
    factor = 1.0 + settings.strength / scale
    columns_bK = layout.columns_of_rows(device)

    def of_sub_batch(rows: Index, columns: Index, _: Tensor | None) -> Weigh:
        index_bK = columns_bK[rows]
        if isinstance(columns, Tensor):
            index_bK = torch.searchsorted(columns, index_bK)

        def weigh(start: int, stop: int, scores_rM: Tensor) -> None:
            index_rK = index_bK[start:stop]
            scores_rK = scores_rM.gather(1, index_rK)
            if settings.columns != "in_batch":
                scores_rK[:, 1:] *= factor
            if settings.columns != "hard_negatives":
                scores_rM *= factor
            scores_rM.scatter_(1, index_rK, scores_rK)

        return weigh

    return of_sub_batch
