"""Compute the spread-out regulariser: the mean squared similarity of different texts of the global batch.

EmbeddingGemma (arXiv 2509.20354) adds 1/(B(B-1)) sum over i != j of (x_i . x_j)^2, once for the questions and
once for the positive passages, so that vectors use the whole sphere. Pairs of one group can be left out.

No B x B matrix: the sum over all pairs is sum over i of x_i . G x_i with the D x D matrix G = X^T X; the few
pairs that do not count are subtracted. Each rank takes the pairs of its rows with all texts. By symmetry this
gives the whole gradient of its rows, so no reduce-scatter is needed.

Shapes: b local rows, B global rows, D wide, P pairs of the local rows that do not count.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move


class Pairs:
    """Pairs (i, j) of a text with itself and with texts of its group, which do not count.

    Args:
        group_B: group of every text, on the host; None leaves out only a text with itself.
        num_texts: B.
        local: the rows i of this rank.
        device: for the indices.
    """

    def __init__(
        self, group_B: NDArray[np.int64] | None, num_texts: int, local: slice, device: torch.device
    ) -> None:
        groups = np.arange(num_texts) if group_B is None else group_B
        order = np.argsort(groups, kind="stable")
        first, last = (np.searchsorted(groups[order], groups[local], side) for side in ("left", "right"))
        size_b = last - first
        starts_b = np.cumsum(size_b) - size_b
        position_P = np.arange(size_b.sum()) + np.repeat(first - starts_b, size_b)
        self.rows_P = move(torch.from_numpy(np.repeat(np.arange(len(size_b)), size_b)), device)
        self.texts_P = move(torch.from_numpy(order[position_P]), device)
        self.local = local
        _, sizes = np.unique(groups, return_counts=True)
        #: Pairs of the global batch that count.
        self.num_counted = num_texts**2 - int((sizes.astype(np.int64) ** 2).sum())


def spread_out(every_BD: Tensor, gradient_bD: Tensor, pairs: Pairs, *, weight: float, chunk: int) -> Tensor:
    """Return this rank's part of the regulariser, () float64; the mean over ranks is the whole one.

    Args:
        every_BD: the texts of all ranks.
        gradient_bD: receives `weight` times the gradient of the local texts, of the mean over ranks.
        pairs: what does not count.
        weight: of the regulariser in the loss.
        chunk: pairs that are left out at once.
    """
    rows_bD = every_BD[pairs.local]
    total = torch.zeros((), dtype=torch.float64, device=every_BD.device)
    if pairs.num_counted == 0:
        return total
    # Per pair: the sum over the ranks' rows is the mean over ranks of B / b times theirs.
    share = every_BD.shape[0] / rows_bD.shape[0] / pairs.num_counted
    sums_bD = rows_bD @ (every_BD.T @ every_BD)
    for start in range(0, rows_bD.shape[0], chunk):
        part = slice(start, start + chunk)
        total += (rows_bD[part] * sums_bD[part]).sum(dtype=torch.float64)
    for index_p, text_p in zip(pairs.rows_P.split(chunk), pairs.texts_P.split(chunk), strict=True):
        texts_pD = every_BD[text_p]
        scores_p = torch.linalg.vecdot(rows_bD[index_p], texts_pD)
        total -= scores_p.square().sum(dtype=torch.float64)
        sums_bD.index_add_(0, index_p, texts_pD.mul_(scores_p[:, None]), alpha=-1)
    # Each pair has its texts in two orders, and each square gives a factor of 2.
    gradient_bD.add_(sums_bD, alpha=4.0 * share * weight)
    return total * share
