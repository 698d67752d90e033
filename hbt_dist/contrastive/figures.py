"""Average the figures of a step over ranks, and refuse NaN and infinity on all of them.

One all-reduce carries everything that a step reports: losses, their terms, scores, tokens, masked columns.

Shapes: b local rows, N gathered passages, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.contrastive.false_negatives import FalseNegatives
from hbt_dist.contrastive.finite import BatchFacts, NonFiniteError, broken_rows
from hbt_dist.contrastive.loss import Contrast, inner_product
from hbt_dist.contrastive.world import World

_SCALARS = ("loss", "info_nce", "alignment", "log_scale", "positive", "mean", "tokens", "padded", "bad")


def mean_figures(
    parts: Contrast,
    terms: Mapping[str, Tensor],
    rows: Mapping[str, Tensor],
    passages_ND: Tensor,
    token_counts: tuple[int, int],
    batch: BatchFacts,
    masks: FalseNegatives | None,
    world: World,
) -> dict[str, Any]:
    """Return scalars and terms, averaged over ranks; raise on all ranks if a scalar is not finite."""
    questions_bD = rows["question"]
    b = questions_bD.shape[0]
    positive = inner_product(questions_bD, rows["passage"][:b]) / b
    mean = questions_bD.mean(0) @ passages_ND.mean(0)
    bad_b = broken_rows(questions_bD)
    for role in rows.keys() - {"question"}:  # positives and negatives row by row, so that both name their row
        bad = broken_rows(rows[role])
        bad_b |= bad[:b] | bad[b:].view(b, -1).any(1)
    values = [parts.loss, parts.info_nce, parts.alignment, parts.log_scale, positive, mean.double()]
    counts = move(torch.tensor(token_counts, dtype=torch.float64), world.device)
    vector = torch.cat([torch.stack([*terms.values(), *values]), counts, bad_b.any().double()[None]])
    vector /= world.size
    sums = world.all_reduce(vector if masks is None else torch.cat([vector, masks.counts()])).tolist()
    names = [*terms, *_SCALARS]
    figures: dict[str, Any] = dict(zip(names, sums, strict=masks is None))
    figures["masked"] = None if masks is None else masks.of_counts(sums[len(names) :])
    broken = figures["bad"] > 0
    if broken or not math.isfinite(figures["loss"]):
        if not broken:
            bad_b = broken_rows(parts.questions_bD)
        bad_B = world.all_gather(bad_b.to(torch.uint8)).cpu().numpy()
        bad_rows = bad_B.nonzero()[0] if bad_B.any() else np.arange(len(bad_B))
        raise NonFiniteError("embedding" if broken else "loss", batch, bad_rows)
    return figures


def negative_score(figures: Mapping[str, float], num_columns: int) -> float:
    """Return the mean score of all columns but the positives."""
    return (figures["mean"] * num_columns - figures["positive"]) / max(num_columns - 1, 1)


def terms_in(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures that only some losses have, such as InfoNCE of each width."""
    return {name: figure for name, figure in figures.items() if name not in (*_SCALARS, "masked")}
