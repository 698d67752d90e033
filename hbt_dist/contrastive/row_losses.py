"""Compute loss and gradients of rows against columns, by PyTorch or by a fused kernel.

* rows: plain PyTorch, `row_chunk` rows at a time, all of it in the buffer of their scores; takes masks,
  weights of columns, and several blocks of columns in one partition function.
* liger: the loop of rows with the cross-entropy kernel of Liger-Kernel (Triton, on a GPU). It reads a chunk's
  scores twice and writes their gradient over them once; plain PyTorch passes over them eight times. Memory is
  that of rows, row_chunk x M floats. Its checks wait for the GPU four times per chunk: use chunks of 1,024.

Liger's fused *linear* cross entropy is the same kernel inside a loop of Liger's own, and is not used. A chunk
there has ceil(b / ceil(M / D)) rows, rounded up to a power of 2, for every `row_chunk`, and the columns'
gradient is held twice more: chunk x M + 2 M D floats, at b = M = 65,536, D = 768 and row_chunk = 256 0.7 GB
instead of 67 MB. Apple's cut-cross-entropy (25.1.1) takes no float32 embeddings in its backward pass.

Shapes: b rows, M columns of a block or of all, D wide, r rows of one chunk.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.settings import Kernel
from hbt_dist.contrastive.world import World

# Float32 leaves 1e-6. Under TF32, where a run allows it, more.
_TOLERANCE = 1e-4

# (first row, past the last row, scaled scores (r, M)) of a chunk -> (r, M) bool, True: column is left out.
# The caller may change the returned tensor.
Exclude = Callable[[int, int, Tensor], Tensor]
# The same arguments: adds the logarithms of the columns' weights to the scores, in place. They are constants:
# gradients reach embeddings through the scores alone.
Weigh = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Block:
    """Columns of a partition function, and the rows that score them; gradients are added to those given."""

    rows_bD: Tensor
    rows_grad_bD: Tensor
    columns_MD: Tensor
    columns_grad_MD: Tensor
    exclude: Exclude | None = None  # sees the scores without weights
    weigh: Weigh | None = None
    share: Tensor | None = None  # () float64; receives the sum over rows of the softmax over these columns

    @property
    def is_plain(self) -> bool:
        """Whether every column counts, with weight 1."""
        return self.exclude is None and self.weigh is None


def infonce_rows(
    blocks: Sequence[Block], target_b: Tensor, *, scale: float, weight: float, row_chunk: int
) -> Tensor:
    """Return the sum over rows of -log softmax(scale * row . columns)[target], in one buffer of scores.

    The softmax runs over the columns of all blocks. Gradients are those of `weight` times the sum.

    Args:
        blocks: of the same rows, each with its vector of the row.
        target_b: column of each row in the first block.

    Returns:
        the sum, () float64.
    """
    rows_bD, num_rows = blocks[0].rows_bD, target_b.shape[0]
    sizes = [block.columns_MD.shape[0] for block in blocks]
    total = torch.zeros((), dtype=torch.float64, device=rows_bD.device)
    buffer_rM = rows_bD.new_empty(min(row_chunk, num_rows), sum(sizes))
    for start in range(0, num_rows, row_chunk):
        stop = min(start + row_chunk, num_rows)
        scores_rM = buffer_rM[: stop - start]
        target_r1 = target_b[start:stop, None]
        parts = list(zip(blocks, scores_rM.split(sizes, dim=1), strict=True))
        scaled = [_score(block, start, stop, part_rM, scale) for block, part_rM in parts]
        target_score_r1 = scores_rM.gather(1, target_r1)
        highest_r1 = scores_rM.amax(1, keepdim=True)
        scores_rM.sub_(highest_r1).exp_()
        masses = [part_rM.sum(1, keepdim=True) for _, part_rM in parts]
        mass_r1 = sum(masses[1:], start=masses[0])
        for block, part_r1 in zip(blocks, masses, strict=True):
            if block.share is not None:
                block.share.add_((part_r1 / mass_r1).sum(dtype=torch.float64))
        total += (mass_r1.log() + highest_r1 - target_score_r1).sum(dtype=torch.float64)
        # From here on the scores' buffer holds their gradient: weight * (softmax - one-hot).
        scores_rM.mul_(weight / mass_r1)
        scores_rM.scatter_add_(1, target_r1, torch.full_like(target_score_r1, -weight))
        for (block, gradient_rM), scaled_rD in zip(parts, scaled, strict=True):
            block.rows_grad_bD[start:stop] += (gradient_rM @ block.columns_MD).mul_(scale)
            block.columns_grad_MD.addmm_(gradient_rM.T, scaled_rD)
    return total


def _score(block: Block, start: int, stop: int, scores_rM: Tensor, scale: float) -> Tensor:
    """Fill in weighted scores of a chunk, -inf where a column is left out; return the scaled rows."""
    scaled_rD = block.rows_bD[start:stop] * scale
    torch.mm(scaled_rD, block.columns_MD.T, out=scores_rM)
    excluded_rM = None if block.exclude is None else block.exclude(start, stop, scores_rM)
    if block.weigh is not None:
        block.weigh(start, stop, scores_rM)
    if excluded_rM is not None:
        scores_rM.masked_fill_(excluded_rM, -math.inf)
    return scaled_rD


def liger_rows(
    blocks: Sequence[Block], target_b: Tensor, *, scale: float, weight: float, row_chunk: int
) -> Tensor:
    """Do what `infonce_rows` does for one plain block, by Liger's cross-entropy kernel in float32 arithmetic.

    No masks, since a block of its online softmax that holds nothing but masked columns gives NaN.
    """
    (block,) = blocks
    cross_entropy = _import_liger()
    total = torch.zeros((), dtype=torch.float64, device=block.rows_bD.device)
    for start in range(0, target_b.shape[0], row_chunk):
        stop = min(start + row_chunk, target_b.shape[0])
        scaled_rD = block.rows_bD[start:stop] * scale
        # Liger gives a gradient only to scores that ask for one, and writes it over them.
        scores_rM = (scaled_rD @ block.columns_MD.T).detach().requires_grad_()
        with torch.enable_grad():
            loss = cross_entropy(scores_rM, target_b[start:stop], reduction="sum")
            (gradient_rM,) = torch.autograd.grad(loss, scores_rM)
        total += loss.detach()
        # The weight goes to the products: in Liger's backward it would be one more pass over the scores.
        block.rows_grad_bD[start:stop] += (gradient_rM @ block.columns_MD).mul_(scale * weight)
        block.columns_grad_MD.addmm_(gradient_rM.T, scaled_rD, alpha=weight)
    return total


#: The function that computes a loss of one plain block, for each value of `loss.kernel`.
UNMASKED: Mapping[Kernel, Callable[..., Tensor]] = {
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

    def run(function: Callable[..., Tensor]) -> list[Tensor]:
        block = Block(rows, torch.zeros_like(rows), columns, torch.zeros_like(columns))
        total = function([block], target, scale=20.0, weight=0.1, row_chunk=4)
        return [total, block.rows_grad_bD, block.columns_grad_MD]

    pairs = zip(run(UNMASKED[kernel]), run(infonce_rows), strict=True)
    # A maximum of tensors, unlike Python's, keeps a NaN.
    return float(torch.stack([((got - want).norm() / want.norm()).double() for got, want in pairs]).max())


def _import_liger() -> Any:
    # Its function with keywords; the autograd function's list of arguments grows with every version.
    return importlib.import_module("liger_kernel.transformers.functional").liger_cross_entropy
