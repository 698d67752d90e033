"""Describe the parts of a row's partition function, and cut them into the blocks of each sub-batch.

A part is a matrix of scores: one vector per local row times gathered columns. A partition function has one
part or several: questions times passages, questions times questions. Each part says which of its columns a
row leaves out, and how much the rest weigh.

Shapes: b local rows, M columns of a part, D wide, r rows of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.row_losses import Block, Exclude, Weigh

# Rows or columns of a sub-batch: indices, or a full slice, which copies nothing.
Index = Tensor | slice
# Gets the rows and columns of a sub-batch, the target of these rows among these columns (None in a part
# without targets), and the mask of columns that are left out anyway; returns the mask of all that are.
Similar = Callable[[Index, Index, Tensor | None, Exclude | None], Exclude]


@dataclass(frozen=True)
class Part:
    """Scores of the local rows with some columns; gradients are added to those given.

    Args:
        rows_bD, rows_grad_bD: one vector per local row; two parts may share them.
        columns_MD, columns_grad_MD: gathered vectors.
        sub_batch_M: sub-batch of every column, on the host; None without sub-batches.
        labels: pairs (b,) and (M,); a row leaves out the columns that have its label in one of the pairs,
            never its target.
        similar: leaves out further columns, by their scores.
        weigh: gets the rows and columns of a sub-batch, and the target of these rows among these columns
            (None in a part without targets); returns what weighs the columns.
        target_b: column of each row that is its counterpart, which no mask leaves out; the first part of a
            partition function has those of the loss.
        share: () float64; receives the sum over rows of the softmax over this part's columns.
    """

    rows_bD: Tensor
    rows_grad_bD: Tensor
    columns_MD: Tensor
    columns_grad_MD: Tensor
    sub_batch_M: NDArray[np.integer] | None
    labels: Sequence[tuple[Tensor, Tensor]] = ()
    similar: Similar | None = None
    weigh: Callable[[Index, Index, Tensor | None], Weigh] | None = None
    target_b: Tensor | None = None
    share: Tensor | None = None

    def target_of(self, rows: Index, columns: Index) -> Tensor | None:
        """Return the targets of a sub-batch's rows among its columns."""
        if self.target_b is None or isinstance(columns, slice):
            return self.target_b
        return torch.searchsorted(columns, self.target_b[rows])

    def block(self, rows: Index, columns: Index, target_b: Tensor | None) -> Block:
        """Return the block of a sub-batch; its gradients are this part's, or zeros for `add_gradients`."""
        masks = [_equal_labels(of_rows[rows], of_columns[columns]) for of_rows, of_columns in self.labels]
        exclude = _any_of(masks, target_b) if masks else None
        if self.similar is not None:
            exclude = self.similar(rows, columns, target_b, exclude)
        if isinstance(rows, slice):
            tensors = (self.rows_bD, self.rows_grad_bD, self.columns_MD, self.columns_grad_MD)
        else:
            rows_bD, columns_MD = self.rows_bD[rows], self.columns_MD[columns]
            tensors = (rows_bD, torch.zeros_like(rows_bD), columns_MD, torch.zeros_like(columns_MD))
        return Block(
            *tensors,
            exclude=exclude,
            weigh=None if self.weigh is None else self.weigh(rows, columns, target_b),
            share=self.share,
        )

    def add_gradients(self, block: Block, rows: Index, columns: Index) -> None:
        """Add the gradients of a sub-batch's block to those of the part."""
        if isinstance(rows, slice) or isinstance(columns, slice):
            return  # the block has added everything
        self.rows_grad_bD.index_add_(0, rows, block.rows_grad_bD)
        self.columns_grad_MD.index_add_(0, columns, block.columns_grad_MD)


def segments(
    layout: Layout, labels_of_parts: Sequence[NDArray[np.integer] | None], device: torch.device
) -> Iterator[tuple[Index, list[Index]]]:
    """Yield the local rows and each part's columns of every sub-batch; without sub-batches, full slices.

    Args:
        layout: has the sub-batches of the rows.
        labels_of_parts: sub-batch of every column, for each part.
        device: for the indices.
    """
    if layout.sub_batch_B is None:
        yield slice(None), [slice(None)] * len(labels_of_parts)
        return

    def indices(labels: NDArray[np.integer] | None, label: int) -> Tensor:
        assert labels is not None
        # On the host: a device would wait for the sizes that it finds.
        return move(torch.from_numpy(np.flatnonzero(labels == label)), device)

    of_rows = layout.sub_batch_B[layout.local_rows]
    for label in np.unique(of_rows):
        yield indices(of_rows, label), [indices(of_columns, label) for of_columns in labels_of_parts]


def _equal_labels(label_b: Tensor, label_M: Tensor) -> Exclude:
    return lambda start, stop, _: label_M[None, :] == label_b[start:stop, None]


def _any_of(masks: Sequence[Exclude], target_b: Tensor | None) -> Exclude:
    """Return a mask of the columns that one of the masks leaves out; never the target."""

    def exclude(start: int, stop: int, scores_rM: Tensor) -> Tensor:
        mask_rM = masks[0](start, stop, scores_rM)
        for mask in masks[1:]:
            mask_rM |= mask(start, stop, scores_rM)
        return mask_rM if target_b is None else mask_rM.scatter_(1, target_b[start:stop, None], False)

    return exclude
