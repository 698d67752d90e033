"""Gather embeddings on every process and return gradients to their owner, without a world-size factor.

Each rank scores its questions against the passages of all ranks and takes the mean over its
questions. Its gradient with respect to every gathered passage is one part of that passage's gradient;
`scatter_gradients` sums the parts back to the owner. Averaging the model's gradient over ranks, which
DeepSpeed and DDP do, then gives exactly the gradient of the mean over the global batch. Multiplying or
dividing by the world size anywhere would be wrong, and is in half of the public trainers.

Cost per step and direction: one all-gather and one reduce-scatter of (W * n, D).

Letters: W processes, n rows per process, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World


def gather_embeddings(local_nD: Tensor, world: World) -> Tensor:
    """Return the embeddings of all ranks, rank by rank: (W * n, D).

    Detached: the caller takes the gradient of the result and hands it to `scatter_gradients`. All ranks
    must hold the same n (`check_equal_slices`, once, when the run starts).
    """
    return world.all_gather(local_nD)


def scatter_gradients(every_WnD: Tensor, world: World) -> Tensor:
    """Return the gradient of the local rows, summed over all ranks that used them: (n, D)."""
    return world.reduce_scatter(every_WnD)


def check_equal_slices(num_rows: int, num_negatives: int, world: World) -> None:
    """Refuse a run whose ranks hold slices of different size; the gathers would hang or mix rows.

    Raises:
        UserError: on every rank alike, so that no rank hangs.
    """
    counts = torch.tensor([[num_rows, num_negatives]], device=world.device)
    every = world.all_gather(counts).tolist()
    if any(row != every[0] for row in every):
        sizes = ", ".join(f"rank {r}: {rows} rows with {n} negatives" for r, (rows, n) in enumerate(every))
        raise UserError(
            "global batch",
            f"the ranks hold slices of different size ({sizes})",
            "the global batch size must be a multiple of the number of processes,\n"
            "and every row must have the same number of hard negatives",
        )
