"""Hold the vectors that a frozen model gives the texts of a rank's slice, read from files for each step.

A frozen model is a teacher or a guide: no step runs it. Its vectors are computed once, before the first step
(`hbt_dist.training.teachers`); the thread that prepares the next batch reads the rows that the batch needs.

Letters: b local rows, B global rows, n = b * (1 + hard negatives) local passages, N gathered passages,
E width of the frozen model's vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.corpus.corpus import Role

Float32s = NDArray[np.float32]


class VectorReader(Protocol):
    """Reads the vectors that a frozen model gives the texts of a corpus."""

    @property
    def width(self) -> int:
        """E."""

    def read(self, role: Role, rows: NDArray[np.integer], languages: NDArray[np.integer]) -> Float32s:
        """Return the vectors of questions of examples, or of passages, in languages: (n,) each, (n, E)."""


@dataclass(frozen=True)
class FrozenVectors:
    """Vectors of one frozen model for the texts of a slice, on the host, each of length 1.

    Attributes:
        questions_bE: of the local questions.
        passages_nE: of the local positives, then of the local hard negatives row by row.
        questions_BE: of every question of the global batch; None where no switch needs them.
        passages_NE: of every passage in gathered order (`hbt_dist.batching.collate`); None likewise.
    """

    questions_bE: Float32s
    passages_nE: Float32s
    questions_BE: Float32s | None = None
    passages_NE: Float32s | None = None


@dataclass(frozen=True)
class Targets:
    """Vectors that the model's vectors of a slice's texts are drawn to; k texts of one role, on the host.

    Attributes:
        vectors_kE: as the teacher gives them; zeros where there is none.
        present_k: whether a text has a target.
    """

    vectors_kE: Float32s
    present_k: NDArray[np.bool_]
