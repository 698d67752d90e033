"""NaN and infinity in a step: found on every rank, named by rows, languages and examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor


class NonFiniteError(RuntimeError):
    """A NaN or infinity appeared: in embeddings, in the loss, or in the model's gradient.

    Raised on every rank in the same step, before the optimizer moved anything (for ``what = "gradient"``
    see `check_gradient_norm`).

    Attributes:
        what: ``"embedding"``, ``"loss"`` or ``"gradient"``.
        step, kind: of the global batch.
        rows: rows of the global batch that are at fault; all of them where it cannot be told.
        examples, question_languages, passage_languages: of these rows, as numbers of the corpus.
    """

    def __init__(self, what: str, batch: Any, rows: np.ndarray) -> None:
        self.what, self.step, self.kind, self.rows = what, int(batch.step), str(batch.kind), rows
        self.examples = np.asarray(batch.example)[rows]
        self.question_languages = np.asarray(batch.question_language)[rows]
        self.passage_languages = np.asarray(batch.passage_language)[rows]
        shown = ", ".join(str(row) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")
        super().__init__(
            f"step {self.step} ({self.kind}): NaN or infinity in the {what}; "
            f"{len(rows)} of {len(np.asarray(batch.example))} rows: {shown}"
        )


def check_gradient_norm(norm: float, batch: Any) -> None:
    """Raise if the norm of the model's gradient is not finite; every rank sees the same norm.

    Under fp16 loss scaling an overflow skips the step and is no error: do not call this then. Rows cannot be
    told apart here, so the error names the whole global batch.

    Raises:
        NonFiniteError: with ``what = "gradient"``.
    """
    if not math.isfinite(norm):
        raise NonFiniteError("gradient", batch, np.arange(len(np.asarray(batch.example))))


def broken_rows(rows_nD: Tensor) -> Tensor:
    """Rows with a NaN or an infinity, (n,) bool; a sum keeps them and needs no memory of the rows' size."""
    return ~torch.isfinite(rows_nD.sum(1))
