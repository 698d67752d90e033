"""Compute one block of scores: product, counts of better candidates, keys of ranked lists.

A block is `block_candidates` x `block_questions` scores, candidates along the first axis, so that comparing
with one threshold per question runs along memory and summing over candidates adds whole rows. On one CPU
core, width 384: product 80 GFLOP/s, each comparison 0.3 ns per score; a relevant pair costs two comparisons
with every candidate (better, and better or equal), which beats sorting the column (4 to 8 ns per score) up
to about ten relevant candidates per question and needs no copy.

Shapes: C candidates and B questions of a block, D embedding width, R most relevant pairs of a question here,
L languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.common.precision import products
from hbt_dist.evaluation.matrix_rows import Float32, Int64

PIECE_ROWS = 128  # rows compared at once: 256 KB of scores stay in the core's cache, sums fit 8 bits
SIGN_BIT = np.uint32(0x80000000)


@contextmanager
def exact_products() -> Iterator[None]:
    """Run matrix products inside the block on one thread each and in full float32.

    Products of equal shapes then have equal bits. Parallelism comes from several blocks at a time: a product
    split over threads may sum in another order, and TF32 rounds.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with products("ieee"):
            yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Columns:
    """The candidates of a block."""

    id_order: NDArray[np.uint32]  # (C,) among equal scores the larger ranks above
    pieces: list[tuple[int, int, int]]  # (start, stop, language)

    @property
    def languages(self) -> list[int]:
        """The languages that occur, ascending."""
        return sorted({language for _, _, language in self.pieces})


@dataclass(frozen=True)
class Targets:
    """The relevant candidates of a block's questions, one slot r per relevant candidate."""

    scores: Float32  # (R, B), infinity in unused slots
    num_relevant: Int64  # (B,) slots in use
    id_order: Int64  # (R, B)
    in_block: NDArray[np.bool_]  # (R, B) the candidate is in this block and will tie with itself


def count_better(
    scores_CB: Float32, targets: Targets, columns: Columns
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Count, for every relevant candidate, the candidates of this block that rank above it, by language.

    Returns:
        (languages of the block, R, B) counts and (R, B) numbers of other candidates with the same score.
    """
    num_slots, width = targets.scores.shape
    slot = {language: i for i, language in enumerate(columns.languages)}
    higher = np.zeros((len(slot), num_slots, width), np.int32)
    tied = np.zeros((num_slots, width), np.int32)
    flags = np.empty((PIECE_ROWS, width), np.bool_)
    active = [np.flatnonzero(targets.num_relevant > r) for r in range(num_slots)]
    for start, stop, language in columns.pieces:
        for first in range(start, stop, PIECE_ROWS):
            last = min(first + PIECE_ROWS, stop)
            piece = scores_CB[first:last]
            for r, questions in enumerate(active):
                into: slice | Int64 = slice(None)
                part, target = piece, flags[: last - first]
                if len(questions) < width:
                    into, part = questions, piece[:, questions]
                    target = np.empty(part.shape, np.bool_)
                threshold = targets.scores[r, into]
                np.greater(part, threshold, out=target)
                above = np.add.reduce(target.view(np.uint8), axis=0, dtype=np.uint8).astype(np.int32)
                np.greater_equal(part, threshold, out=target)
                equal = np.add.reduce(target.view(np.uint8), axis=0, dtype=np.uint8) - above
                higher[slot[language], r, into] += above
                tied[r, into] += equal
    tied -= targets.in_block
    if tied.any():
        _break_ties(scores_CB, targets, columns, tied, higher)
    return higher, tied


def _break_ties(
    scores_CB: Float32,
    targets: Targets,
    columns: Columns,
    tied_RB: NDArray[np.int32],
    higher: NDArray[np.int32],
) -> None:
    """Add the candidates that have the same score and a larger id. Runs only where there are ties."""
    slot = {language: i for i, language in enumerate(columns.languages)}
    order_C1 = columns.id_order.astype(np.int64)[:, None]
    for r in range(len(tied_RB)):
        questions = np.flatnonzero(tied_RB[r])
        if not len(questions):
            continue
        for start, stop, language in columns.pieces:
            equal = scores_CB[start:stop, questions] == targets.scores[r, questions]
            equal &= order_C1[start:stop] > targets.id_order[r, questions]
            higher[slot[language], r, questions] += equal.sum(axis=0, dtype=np.int32)


def ranking_keys(scores: Float32, id_order: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Return 64-bit keys whose order is the ranking: score first, then id. All keys of a question differ."""
    bits = (scores + np.float32(0.0)).view(np.uint32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
    return (ordered.astype(np.uint64) << np.uint64(32)) | id_order


def decode_keys(keys: NDArray[np.uint64]) -> tuple[Float32, NDArray[np.uint32]]:
    """Return the scores and id orders of `ranking_keys`."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & SIGN_BIT, ordered ^ SIGN_BIT, ~ordered)
    return bits.view(np.float32), keys.astype(np.uint32)


def merge_top(
    top_Bk: NDArray[np.uint64], scores_CB: Float32, id_order_C: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """Return the k largest keys of each question among the kept keys (0: empty) and those of a block.

    Reads only scores that reach the worst kept score: about k / (candidates seen) of them after the first
    blocks. With mass ties it partitions k + C keys.
    """
    width, k = top_Bk.shape
    worst = top_Bk.min(axis=1)
    floor, _ = decode_keys(worst)
    floor = np.where(worst == 0, np.float32(-np.inf), floor)
    candidate, question = np.divmod(np.flatnonzero(scores_CB >= floor), width)
    if not len(question):
        return top_Bk
    per_question = np.bincount(question, minlength=width)
    most = int(per_question.max())
    if most * 2 > len(scores_CB):
        new = ranking_keys(np.ascontiguousarray(scores_CB.T), id_order_C[None, :])
    else:
        by_question = np.argsort(question, kind="stable")
        candidate, question = candidate[by_question], question[by_question]
        starts = np.cumsum(per_question) - per_question
        new = np.zeros((width, most), np.uint64)
        new[question, np.arange(len(question)) - starts[question]] = ranking_keys(
            scores_CB[candidate, question], id_order_C[candidate]
        )
    return best_keys([top_Bk, new], k)


def best_keys(parts: Sequence[NDArray[np.uint64]], k: int) -> NDArray[np.uint64]:
    """Return the k largest keys of each row over all parts, unordered; all keys if there are fewer."""
    keys = np.concatenate(parts, axis=1)
    return keys if keys.shape[1] <= k else np.partition(keys, keys.shape[1] - k, axis=1)[:, -k:]
