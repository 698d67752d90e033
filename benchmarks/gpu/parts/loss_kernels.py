"""The package's loss as calls without arguments, for every kernel and precision of the products."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.parts.equalities import KERNELS
from hbt_dist.common.precision import Precision
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import Contrast, contrast
from hbt_dist.contrastive.row_losses import why_not
from hbt_dist.contrastive.settings import LossSettings

PRECISIONS: tuple[Precision, ...] = ("tf32", "ieee")


def losses(
    rows: Tensor, columns: Tensor, row_chunk: int, device: torch.device
) -> Iterator[tuple[str, Callable[[], Contrast]]]:
    """Yield the name and the call of every loss that can run."""
    layout = Layout(0, len(columns) // len(rows), len(rows), 0)
    for kernel in KERNELS:
        if why_not(kernel, device) is not None:
            continue
        for precision in PRECISIONS:
            settings = LossSettings(
                row_chunk=row_chunk, kernel=kernel, products=precision, mask_false_negatives=False
            )
            yield f"{kernel} {precision}", partial(contrast, rows, columns, layout, settings, scale=20.0)
