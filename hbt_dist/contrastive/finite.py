"""Find NaN and infinity in a step on every rank, and name the rows, languages and examples."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class BatchFacts(Protocol):
    """A global batch as error messages describe it (`hbt_dist.batching.plan.GlobalBatch`)."""

    @property
    def step(self) -> int:
        """Step of the batch."""

    @property
    def kind(self) -> str:
        """Kind of the batch."""

    @property
    def example(self) -> NDArray[np.integer]:
        """(B,) example of every row."""

    @property
    def question_language(self) -> NDArray[np.integer]:
        """(B,) language of every question."""

    @property
    def passage_language(self) -> NDArray[np.integer]:
        """(B,) language of every positive passage."""


class NonFiniteError(RuntimeError):
    """A NaN or infinity appeared: in embeddings, in the loss, or in the model's gradient.

    Raised on every rank in the same step, before the optimizer changed anything (for ``what = "gradient"``
    see `check_gradient_norm`).

    Attributes:
        what: ``"embedding"``, ``"loss"`` or ``"gradient"``.
        step, kind: of the global batch.
        rows: affected rows of the global batch; all rows where they cannot be identified.
        examples, question_languages, passage_languages: of these rows, as numbers of the corpus.
    """

    def __init__(self, what: str, batch: BatchFacts, rows: NDArray[np.integer]) -> None:
        self.what, self.step, self.kind, self.rows = what, int(batch.step), str(batch.kind), rows
        self.examples = np.asarray(batch.example)[rows]
        self.question_languages = np.asarray(batch.question_language)[rows]
        self.passage_languages = np.asarray(batch.passage_language)[rows]
        shown = ", ".join(str(row) for row in rows[:8]) + (", ..." if len(rows) > 8 else "")
        super().__init__(
            f"step {self.step} ({self.kind}): NaN or infinity in the {what}; "
            f"{len(rows)} of {len(np.asarray(batch.example))} rows: {shown}"
        )


def check_gradient_norm(norm: float, batch: BatchFacts) -> None:
    """Raise if the norm of the model's gradient is not finite; every rank sees the same norm.

    Do not call this under fp16 loss scaling: there an overflow skips the step and is not an error. The norm
    does not identify rows, so the error names the whole global batch.

    Raises:
        NonFiniteError: with ``what = "gradient"``.
    """
    if not math.isfinite(norm):
        raise NonFiniteError("gradient", batch, np.arange(len(np.asarray(batch.example))))


def broken_rows(rows_nD: Tensor) -> Tensor:
    """Rows with a NaN or an infinity, (n,) bool; a sum keeps them and needs no memory of the rows' size."""
    return ~torch.isfinite(rows_nD.sum(1))
