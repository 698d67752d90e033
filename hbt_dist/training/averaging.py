"""Average gradients over ranks in place, bucket by bucket.

Small gradients travel together, since each collective costs the network a delay. A large one travels alone
and is not copied. So the average needs the memory of one bucket, not that of a second model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_dist.contrastive.world import World

#: Elements of a bucket, 100 MB in float32: an all-reduce of that size keeps any network busy.
BUCKET_ELEMENTS = 25_000_000


def average_gradients(
    parameters: Sequence[Tensor], world: World, bucket_elements: int = BUCKET_ELEMENTS
) -> None:
    """Replace the gradient of each parameter by its mean over the ranks. Collective.

    Args:
        parameters: the same on every rank, in the same order; a missing gradient counts as zero.
        world: the ranks. With one rank nothing happens.
        bucket_elements: most elements of gradients that travel together in one message.
    """
    if world.size == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    for bucket in _buckets(gradients, bucket_elements):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            dist.all_reduce(bucket[0], group=world.group)
            bucket[0] /= world.size
            continue
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat, group=world.group)
        flat /= world.size
        parts = flat.split([gradient.numel() for gradient in bucket])
        torch._foreach_copy_(
            bucket, [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)]
        )


def _buckets(gradients: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Yield runs of gradients of one type, of together at most `most` elements or a single one."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        if bucket and (size + gradient.numel() > most or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket
