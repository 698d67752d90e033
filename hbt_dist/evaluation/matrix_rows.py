"""Read and check embedding matrices, in memory or memory-mapped, a block of rows at a time.

A matrix is anything with `shape` and row indexing: a NumPy array of any float type, a `numpy.memmap`, or
`EmbeddingFiles` (encode.py). Blocks come out as float32. After a block of a memory map has been copied its
pages are given back, so that the resident memory of a pass over 7.7 GB stays at one block.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError

Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LARGEST_NORM = 1e18  # the product of two such norms is still finite in float32


class Rows(Protocol):
    """A matrix that can be read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, width)."""

    def __getitem__(self, rows: Any, /) -> Any: ...


def read_rows(matrix: Rows, rows: slice | Int64, out: Float32) -> None:
    """Copy `rows` of `matrix` into the head of `out` as float32; the rest of `out` becomes zero."""
    block = matrix[rows]
    out[: len(block)] = block
    out[len(block) :] = 0.0
    release_pages(matrix)


def release_pages(matrix: Rows) -> None:
    """Give the pages of a file-backed memory map back to the system; they are read again when needed."""
    mapping = getattr(matrix, "_mmap", None) if isinstance(matrix, np.memmap) else None
    if mapping is not None and matrix.mode in ("r", "c") and hasattr(mmap, "MADV_DONTNEED"):  # type: ignore[attr-defined]
        mapping.madvise(mmap.MADV_DONTNEED)


def check_shapes(
    questions: Rows, candidates: Rows, num_questions: int, num_candidates: int, benchmark: str
) -> None:
    """Check that the matrices fit the benchmark and each other.

    Raises:
        UserError: not two-dimensional, wrong number of rows, or different widths.
    """
    for name, matrix, rows in (
        ("question", questions, num_questions),
        ("candidate", candidates, num_candidates),
    ):
        if len(matrix.shape) != 2 or matrix.shape[0] != rows:
            raise UserError(
                f"{name} embeddings for {benchmark}",
                f"expected shape ({rows}, width), got {tuple(matrix.shape)}",
                f"give one row for each {name} of the benchmark",
            )
    if questions.shape[1] != candidates.shape[1] or questions.shape[1] < 1:
        raise UserError(
            f"embeddings for {benchmark}",
            f"expected equal widths, got questions {questions.shape[1]}, candidates {candidates.shape[1]}",
            "encode both with the same model",
        )


def check_rows(block_CD: Float32, name_of: Callable[[int], str], role: str) -> float:
    """Check that rows can be ranked: finite, not all zero, and not too long for float32 scores.

    Args:
        name_of: the name of a row of the block, for the message.

    Returns:
        the largest length of a row.

    Raises:
        UserError: names the first row that cannot be ranked.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        square = np.einsum("cd,cd->c", block_CD, block_CD, dtype=np.float64)
    bad = ~np.isfinite(square) | (square == 0.0) | (square > LARGEST_NORM**2)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        vector = block_CD[row]
        defects = (
            (np.isnan(vector).any(), "is not a number (NaN)"),
            (not np.isfinite(vector).all(), "is infinite"),
            (not vector.any(), "is all zeros"),
            (True, f"has length {np.sqrt(square[row]):.3g}"),
        )
        defect = next(text for applies, text in defects if applies)
        raise UserError(
            f"{role} embedding of '{name_of(row)}'",
            f"the vector {defect}",
            f"expected a finite vector of length above 0 and at most {LARGEST_NORM:g}; "
            f"{int(bad.sum())} of {len(bad)} rows read so far are bad. Check the model and the texts",
        )
    return float(np.sqrt(square.max(initial=0.0)))
