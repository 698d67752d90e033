"""Cut embeddings to their first values, and carry gradients back to the whole embeddings.

Cosines of cut embeddings need vectors of length 1 again: y = x / |x| for the first w values x. A gradient g
at y is (g - (g . y) y) / |x| at x. Each rank does this for every gathered passage before the reduce-scatter,
so gradients of all widths travel as one tensor. Costs three passes over N x w values and holds y and its
gradient, 2 N w floats; the full width, and any width without rescaling, are views.

Shapes: n embeddings, D their width, w the width of the cut.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHORTEST = 1e-12  # as torch's normalize: a cut of zeros stays zeros


class Cut:
    """Embeddings cut to a width, and the gradient at them, (n, w) each.

    Args:
        whole_nD: embeddings.
        gradient_nD: gradient at them; that of the cut is added to it, at the latest by `carry_back`.
        width: w.
        rescale: scale what is left to length 1; at the full width embeddings are taken as they are.
    """

    def __init__(self, whole_nD: Tensor, gradient_nD: Tensor, width: int, *, rescale: bool) -> None:
        self.embeddings = whole_nD[:, :width]
        self.gradient = self._target = gradient_nD[:, :width]
        self._lengths_n1: Tensor | None = None
        if rescale and width < whole_nD.shape[1]:
            self._lengths_n1 = torch.linalg.vector_norm(self.embeddings, dim=1, keepdim=True)
            self._lengths_n1.clamp_(min=_SHORTEST)
            self.embeddings = self.embeddings / self._lengths_n1
            self.gradient = torch.zeros_like(self.embeddings)

    def carry_back(self) -> None:
        """Add the gradient to that of the whole embeddings; call it once, when the gradient is complete."""
        if self._lengths_n1 is None:
            return  # a view has added everything
        along_n = torch.linalg.vecdot(self.gradient, self.embeddings)
        self.gradient.addcmul_(along_n[:, None], self.embeddings, value=-1)
        self._target.addcdiv_(self.gradient, self._lengths_n1)
