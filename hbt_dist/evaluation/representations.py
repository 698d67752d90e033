"""Cut and quantise embeddings when they are read: Matryoshka widths, int8 and binary codes.

    cut      the first W values, scaled to length 1 again if the model's embeddings have length 1
    int8     255 steps between the smallest and the largest value of each dimension among all candidates;
             codes -128 to 127 of questions and candidates alike, values beyond the range at its ends
    binary   1 where a value is above 0, else -1

These are `truncate_embeddings` and `quantize_embeddings` of sentence-transformers (tests/evaluation/
test_representations.py): its encoders normalise before they cut, and its cosine normalises again. A score is
the inner product of two codes: for int8 without the offsets and steps of the ranges, as its usearch and faiss
indexes compute it, for binary W - 2 x Hamming distance. Both are whole numbers, exact in float32 for every
binary code, and for int8 up to width 1,024 (beyond it, as long as two codes' lengths multiply to 2^24).
Rescoring with the embeddings themselves is not simulated.

Rows change when a block of them is read, so no second copy of the pool exists, and a row's codes depend on
that row and the ranges alone: equal for every number of shards, threads and actors. The ranges cost one more
reading of the candidates.

Shapes: n rows, D embedding width, W width of a representation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, release_pages
from hbt_dist.evaluation.settings import Representation

_ROWS_AT_ONCE = 8192
_STEPS = 255


@dataclass(frozen=True)
class RepresentedRows:
    """An (n, W) matrix whose rows are cut and quantised when they are read.

    Args:
        matrix: (n, D).
        representation: of width W.
        normalized: whether the rows of `matrix` have length 1.
        ranges: (2, W) smallest and largest value of each dimension, for int8.
    """

    matrix: Rows
    representation: Representation
    normalized: bool
    ranges: Float32 | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, width)."""
        return self.matrix.shape[0], self.representation.width

    def __getitem__(self, rows: slice | Int64) -> Float32:
        block = np.asarray(self.matrix[rows], np.float32)
        release_pages(self.matrix)
        values = cut(block, self.representation.width, self.normalized)
        if self.representation.precision == "binary":
            return np.where(values > 0, np.float32(1), np.float32(-1))
        return values if self.ranges is None else int8_codes(values, self.ranges)


def cut(block_nD: Float32, width: int, normalized: bool) -> Float32:
    """Return the first `width` values of each row, of length 1 if `normalized`; uncut rows as they are."""
    values = block_nD[:, :width]
    if width == block_nD.shape[1] or not normalized:
        return values
    # Not a matrix product: the sum over W must not depend on how many rows are read together.
    length = np.sqrt(np.square(values, dtype=np.float64).sum(axis=1, keepdims=True))
    scaled = np.divide(values, length, out=np.zeros(values.shape), where=length != 0)  # zeros: refused later
    return scaled.astype(np.float32)


def int8_codes(values_nW: Float32, ranges_2W: Float32) -> Float32:
    """Return codes from -128 to 127, as float32 for the products; a dimension without range has -128."""
    start = ranges_2W[0]
    step = (ranges_2W[1] - start) / np.float32(_STEPS)
    step = np.where(step == 0, np.float32(1), step)
    return np.asarray(np.clip(np.floor((values_nW - start) / step), 0, _STEPS) - 128, np.float32)


def int8_ranges(matrix: Rows, widths: Iterable[int], normalized: bool) -> dict[int, Float32]:
    """Return the smallest and the largest value of each dimension of all rows, (2, W) by width.

    Reads the matrix once.
    """
    ranges = {width: np.full((2, width), np.inf, np.float32) for width in widths}
    for bounds in ranges.values():
        bounds[1] = -np.inf
    for start in range(0, matrix.shape[0] if ranges else 0, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, matrix.shape[0])
        block = np.asarray(matrix[start:stop], np.float32)
        release_pages(matrix)
        for width, bounds in ranges.items():
            values = cut(block, width, normalized)
            np.minimum(bounds[0], values.min(axis=0), out=bounds[0])
            np.maximum(bounds[1], values.max(axis=0), out=bounds[1])
    return ranges


def represented(
    representations: Iterable[Representation], questions: Rows, candidates: Rows, normalized: bool
) -> Mapping[Representation, tuple[Rows, Rows]]:
    """Return questions and candidates in each representation.

    Args:
        questions: (Q, D).
        candidates: (N, D), which give the ranges of int8.
        normalized: whether the encoder scales its embeddings to length 1.
    """
    chosen = tuple(representations)
    widths = dict.fromkeys(item.width for item in chosen if item.precision == "int8")
    ranges = int8_ranges(candidates, widths, normalized)

    def rows(matrix: Rows, item: Representation) -> Rows:
        bounds = ranges[item.width] if item.precision == "int8" else None
        return RepresentedRows(matrix, item, normalized, bounds)

    return {item: (rows(questions, item), rows(candidates, item)) for item in chosen}
