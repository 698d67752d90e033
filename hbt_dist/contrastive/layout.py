"""Map gathered columns to rows, and exclude pairs that must not be contrasted.

Gathered order is rank-major: each rank contributes its b positives, then its b * n hard negatives. Shapes: b
local rows, B global rows, n hard negatives per row, N = B * (1 + n) columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.contrastive.settings import LossSettings


@dataclass(frozen=True)
class Layout:
    """Which gathered column belongs to which row, and which pairs are excluded.

    Args:
        rank, world_size: of this process.
        num_rows: b.
        num_negatives: n.
        group_N: passage group of every gathered column, None if no two columns share one.
        sub_batch_B, sub_batch_N: sub-batch of every global row and column, on the host; None if there is
            only one.
        group_B: group of every global row's positive, on the host; None unless the spread-out regulariser
            masks groups.
    """

    rank: int
    world_size: int
    num_rows: int
    num_negatives: int
    group_N: Tensor | None = None
    sub_batch_B: NDArray[np.int64] | None = None
    sub_batch_N: NDArray[np.int64] | None = None
    group_B: NDArray[np.int64] | None = None

    @classmethod
    def of_arrays(
        cls,
        *,
        rank: int,
        world_size: int,
        num_rows: int,
        num_negatives: int,
        group_N: np.ndarray,
        sub_batch_B: np.ndarray,
        sub_batch_N: np.ndarray,
        settings: LossSettings,
        device: torch.device,
    ) -> Layout:
        """Keep only the arrays that change anything under `settings`."""

        group = sub_B = sub_N = group_B = None
        if settings.mask_false_negatives and len(np.unique(group_N)) < len(group_N):
            group = move(torch.from_numpy(np.ascontiguousarray(group_N, dtype=np.int64)), device)
        if settings.negatives == "sub_batch" and len(np.unique(sub_batch_B)) > 1:
            sub_B, sub_N = np.asarray(sub_batch_B), np.asarray(sub_batch_N)
        if settings.spread_out is not None and settings.spread_out.mask_groups:
            of_ranks = np.asarray(group_N, dtype=np.int64).reshape(world_size, -1)
            group_B = of_ranks[:, :num_rows].ravel()
        return cls(rank, world_size, num_rows, num_negatives, group, sub_B, sub_N, group_B)

    @property
    def first_row(self) -> int:
        """Global number of the first local row."""
        return self.rank * self.num_rows

    @property
    def local_rows(self) -> slice:
        """Global numbers of the local rows."""
        return slice(self.first_row, self.first_row + self.num_rows)

    @property
    def first_column(self) -> int:
        """Column of the first local positive."""
        return self.rank * self.num_rows * (1 + self.num_negatives)

    def positive_columns(self, device: torch.device) -> Tensor:
        """Return the column of every global row's positive: (B,)."""
        rows = torch.arange(self.world_size * self.num_rows, device=device)
        return rows + (rows // self.num_rows) * self.num_rows * self.num_negatives

    def columns_of_rows(self, device: torch.device) -> Tensor:
        """Return the columns of every local row's passages, the positive first: (b, 1 + n)."""
        b, n = self.num_rows, self.num_negatives
        row_b1 = torch.arange(b, device=device)[:, None]
        negatives_bn = b + row_b1 * n + torch.arange(n, device=device)
        return self.first_column + torch.cat([row_b1, negatives_bn], 1)

    def rows_of_columns(self, device: torch.device) -> Tensor:
        """Return the global row of every column: (N,)."""
        rows_Wb = torch.arange(self.world_size * self.num_rows, device=device).view(self.world_size, -1)
        return torch.cat([rows_Wb, rows_Wb.repeat_interleave(self.num_negatives, 1)], 1).flatten()

    def rows_of_hard_negatives(self, device: torch.device) -> Tensor:
        """Return the global row that each column is a hard negative of, -1 for positives: (N,)."""
        return self.rows_of_columns(device).index_fill_(0, self.positive_columns(device), -1)
