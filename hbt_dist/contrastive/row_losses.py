"""Compute loss and gradients of rows against columns, by PyTorch or by a fused kernel.

* rows: plain PyTorch, `row_chunk` rows at a time, all of it in the buffer of their scores; takes masks.
* liger: the loop of rows with the cross-entropy kernel of Liger-Kernel (Triton, on a GPU). It reads a chunk's
  scores twice and writes their gradient over them once; plain PyTorch passes over them eight times. Memory is
  that of rows, row_chunk x M floats. Its checks wait for the GPU four times per chunk: use chunks of 1,024.

Liger's fused *linear* cross entropy is the same kernel inside a loop of Liger's own, and is not used. A chunk
there has ceil(b / ceil(M / D)) rows, rounded up to a power of 2, for every `row_chunk`, and the columns'
gradient is held twice more: chunk x M + 2 M D floats, at b = M = 65,536, D = 768 and row_chunk = 256 0.7 GB
instead of 67 MB. Apple's cut-cross-entropy (25.1.1) takes no float32 embeddings in its backward pass.

Shapes: b rows, M columns, D wide, r rows of one chunk.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.settings import Kernel
from hbt_dist.contrastive.world import World

# Float32 leaves 1e-6. Under TF32, where a run allows it, more.
_TOLERANCE = 1e-4

# (first row, past the last row) of a chunk -> (r, M) bool, True where the column is left out.
Exclude = Callable[[int, int], Tensor]


def infonce_rows(
    rows_bD: Tensor,
    columns_MD: Tensor,
    columns_grad_MD: Tensor,
    target_b: Tensor,
    *,
    scale: float,
    weight: float,
    row_chunk: int,
    exclude: Exclude | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sum over rows of -log softmax(scale * row . columns)[target], in one buffer of scores.

    Gradients are those of `weight` times the sum.

    Returns:
        the sum, () float64, and the gradient of the rows (b, D); the columns' is added to `columns_grad_MD`.
    """
    total = torch.zeros((), dtype=torch.float64, device=rows_bD.device)
    rows_grad = torch.empty_like(rows_bD)
    for start in range(0, rows_bD.shape[0], row_chunk):
        stop = min(start + row_chunk, rows_bD.shape[0])
        scaled_rD = rows_bD[start:stop] * scale
        target_r1 = target_b[start:stop, None]
        scores_rM = scaled_rD @ columns_MD.T
        if exclude is not None:
            scores_rM.masked_fill_(exclude(start, stop), -math.inf)
        target_score_r1 = scores_rM.gather(1, target_r1)
        highest_r1 = scores_rM.amax(1, keepdim=True)
        mass_r1 = scores_rM.sub_(highest_r1).exp_().sum(1, keepdim=True)
        total += (mass_r1.log() + highest_r1 - target_score_r1).sum(dtype=torch.float64)
        # From here on the scores' buffer holds their gradient: weight * (softmax - one-hot).
        gradient_rM = scores_rM.mul_(weight / mass_r1)
        gradient_rM.scatter_add_(1, target_r1, torch.full_like(target_score_r1, -weight))
        rows_grad[start:stop] = (gradient_rM @ columns_MD).mul_(scale)
        columns_grad_MD.addmm_(gradient_rM.T, scaled_rD)
    return total, rows_grad


def liger_rows(
    rows_bD: Tensor,
    columns_MD: Tensor,
    columns_grad_MD: Tensor,
    target_b: Tensor,
    *,
    scale: float,
    weight: float,
    row_chunk: int,
) -> tuple[Tensor, Tensor]:
    """Do what `infonce_rows` does without masks, by Liger's cross-entropy kernel in float32 arithmetic.

    No masks, since a block of its online softmax that holds nothing but masked columns gives NaN.
    """
    cross_entropy = _import_liger()
    total = torch.zeros((), dtype=torch.float64, device=rows_bD.device)
    rows_grad = torch.empty_like(rows_bD)
    for start in range(0, rows_bD.shape[0], row_chunk):
        stop = min(start + row_chunk, rows_bD.shape[0])
        scaled_rD = rows_bD[start:stop] * scale
        # Liger gives a gradient only to scores that ask for one, and writes it over them.
        scores_rM = (scaled_rD @ columns_MD.T).detach().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(scores_rM, target_b[start:stop], reduction="sum")
            (gradient_rM,) = torch.autograd.grad(loss, scores_rM)
        total += loss.detach()
        # The weight goes to the products: in Liger's backward it would be one more pass over the scores.
        rows_grad[start:stop] = (gradient_rM @ columns_MD).mul_(scale * weight)
        columns_grad_MD.addmm_(gradient_rM.T, scaled_rD, alpha=weight)
    return total, rows_grad


#: The function that computes a loss without masks, for each value of `loss.kernel`.
UNMASKED: Mapping[Kernel, Callable[..., tuple[Tensor, Tensor]]] = {
    "auto": infonce_rows,
    "rows": infonce_rows,
    "liger": liger_rows,
}


def check_kernel(kernel: Kernel, world: World) -> None:
    """Refuse a `loss.kernel` that cannot run on this device or differs from rows; about a second.

    Raises:
        UserError: on every rank alike, so that no rank hangs.
    """
    if UNMASKED[kernel] is infonce_rows:
        return  # without a collective
    reason = why_not(kernel, world.device)
    if world.all_max(int(reason is not None)):
        problem = reason or "cannot be used on another rank"
        raise UserError("loss.kernel", f"{kernel} {problem}", "set loss.kernel to auto or rows")


def why_not(kernel: Kernel, device: torch.device) -> str | None:
    """Return why a kernel cannot be used here, as what follows its name in a sentence; None if it can."""
    if kernel == "liger" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"needs a CUDA device, and this run is on {device.type}"
    try:
        error = kernel_error(kernel, device)
    except ImportError as missing:
        return f"needs liger-kernel, which cannot be imported ({missing}): pip install 'hbt-dist[fused]'"
    except Exception as failure:  # Triton compiles at the first call, and wants a C compiler among others
        return f"fails here: {type(failure).__name__}: {failure}"
    if error <= _TOLERANCE:
        return None
    return f"differs from rows in loss or gradients by {error:.1e}, at most {_TOLERANCE:.0e} is rounding"


def kernel_error(kernel: Kernel, device: torch.device) -> float:
    """Return the largest relative difference of a kernel's loss and gradients from those of rows, in float32.

    Eleven rows in chunks of four, and more columns than a block of Liger's kernel holds (32,768).
    """
    generator = torch.Generator().manual_seed(0)
    rows, columns = (
        F.normalize(torch.randn(count, 16, generator=generator), dim=-1).to(device) for count in (11, 33_001)
    )
    target = torch.randint(len(columns), (len(rows),), generator=generator).to(device)

    def run(function: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        columns_grad = torch.zeros_like(columns)
        sizes = {"scale": 20.0, "weight": 0.1, "row_chunk": 4}
        return [*function(rows, columns, columns_grad, target, **sizes), columns_grad]

    pairs = zip(run(UNMASKED[kernel]), run(infonce_rows), strict=True)
    # A maximum of tensors, unlike Python's, keeps a NaN.
    return float(torch.stack([((got - want).norm() / want.norm()).double() for got, want in pairs]).max())


def _import_liger() -> Any:
    # Its function with keywords; the autograd function's list of arguments grows with every version.
    return importlib.import_module("liger_kernel.transformers.functional").liger_cross_entropy
