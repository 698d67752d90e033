"""The arithmetic of one score block: product, counts of better candidates, ranked-list keys.

A block is `block_candidates` x `block_questions` scores, candidates along the first axis, so that comparing
with one threshold per question runs along memory and summing over candidates adds whole rows. On one CPU
core, width 384: product 80 GFLOP/s, each comparison .3 ns per score; a relevant pair costs two comparisons
with every candidate (better, and better or equal), which beats sorting the column (4 to 8 ns per score) up
to about ten relevant candidates per question and needs no copy.

Shapes: C candidates and B questions of a block, D embedding width, R most relevant pairs of a question here,
L languages.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

PIECE_ROWS = (
    128  # rows compared at once: 256 KB of scores stay in the core's cache; sums of at most 255 fit 8 bits
)
SIGN_BIT = np.uint32(0x80000000)


def score_product(candidates_CD: Tensor, questions_BD: Tensor, out_CB: Tensor) -> None:
    """Inner products in float32. TF32 must be off and the process limited to one thread per product
    (`exact_products`), so that equal shapes give equal bits.
    """
    torch.mm(candidates_CD, questions_BD.T, out=out_CB)


@contextmanager
def exact_products() -> Iterator[None]:
    """Within: matrix products run on one thread each and in full float32. Restores the settings.

    Parallelism comes from several blocks at a time: a product split over threads may sum in another order.
    """
    threads, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = tf32


def count_better(
    scores_CB: Float32,
    thresholds_RB: Float32,
    num_relevant_B: Int64,
    own_order_RB: Int64,
    id_order_C: NDArray[np.uint32],
    pieces: list[tuple[int, int, int]],
    own_RB: NDArray[np.bool_],
    languages: list[int],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Count, for every relevant pair, the candidates of this block that rank above it, by language.

    Args:
        scores_CB: valid part of the score block.
        thresholds_RB: score of each question's r-th relevant candidate; slots r >= num_relevant_B are ignored.
        own_order_RB: id order of the relevant candidate, to break ties.
        id_order_C: id order of the block's candidates; among equal scores the larger ranks above.
        pieces: (start, stop, language) of the block's rows.
        own_RB: whether the relevant candidate itself lies in this block (it equals its own score).
        languages: the languages that occur in `pieces`, ascending.

    Returns:
        (len(languages), R, B) counts and (R, B) numbers of other candidates with exactly the same score.
    """
    num_slots, width = thresholds_RB.shape
    higher = np.zeros((len(languages), num_slots, width), np.int32)
    tied = np.zeros((num_slots, width), np.int32)
    slot = {language: i for i, language in enumerate(languages)}
    flags = np.empty((PIECE_ROWS, width), np.bool_)
    active = [np.flatnonzero(num_relevant_B > r) for r in range(num_slots)]
    for start, stop, language in pieces:
        for first in range(start, stop, PIECE_ROWS):
            last = min(first + PIECE_ROWS, stop)
            piece = scores_CB[first:last]
            for r in range(num_slots):
                columns = active[r]
                if len(columns) == width:
                    part, target, into = piece, flags[: last - first], slice(None)
                else:
                    part, into = piece[:, columns], columns
                    target = np.empty(part.shape, np.bool_)
                threshold = thresholds_RB[r, into]
                np.greater(part, threshold, out=target)
                above = np.add.reduce(target.view(np.uint8), axis=0, dtype=np.uint8).astype(np.int32)
                np.greater_equal(part, threshold, out=target)
                equal = np.add.reduce(target.view(np.uint8), axis=0, dtype=np.uint8) - above
                higher[slot[language], r, into] += above
                tied[r, into] += equal
    tied -= own_RB
    if tied.any():
        _break_ties(scores_CB, thresholds_RB, own_order_RB, id_order_C, pieces, tied, higher, slot)
    return higher, tied


def _break_ties(
    scores_CB: Float32,
    thresholds_RB: Float32,
    own_order_RB: Int64,
    id_order_C: NDArray[np.uint32],
    pieces: list[tuple[int, int, int]],
    tied_RB: NDArray[np.int32],
    higher: NDArray[np.int32],
    slot: dict[int, int],
) -> None:
    """Add the candidates that have the same score and a larger id. Runs only where there are ties."""
    order_C1 = id_order_C.astype(np.int64)[:, None]
    for r in range(len(thresholds_RB)):
        columns = np.flatnonzero(tied_RB[r])
        if not len(columns):
            continue
        for start, stop, language in pieces:
            equal = scores_CB[start:stop, columns] == thresholds_RB[r, columns]
            equal &= order_C1[start:stop] > own_order_RB[r, columns]
            higher[slot[language], r, columns] += equal.sum(axis=0, dtype=np.int32)


def count_better_on_device(
    scores_CB: Tensor,
    thresholds_RB: Tensor,
    own_order_RB: Tensor,
    id_order_C: Tensor,
    pieces: list[tuple[int, int, int]],
    own_RB: Tensor,
    languages: list[int],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`count_better` in torch, for scores that lie on an accelerator. Unused slots hold infinity."""
    num_slots, width = thresholds_RB.shape
    higher = torch.zeros((len(languages), num_slots, width), dtype=torch.int32, device=scores_CB.device)
    tied = -own_RB.to(torch.int32)
    slot = {language: i for i, language in enumerate(languages)}
    for r in range(num_slots):
        threshold = thresholds_RB[r]
        for start, stop, language in pieces:
            part = scores_CB[start:stop]
            equal = part == threshold
            tied[r] += equal.sum(dim=0, dtype=torch.int32)
            ahead = (part > threshold) | (equal & (id_order_C[start:stop, None] > own_order_RB[r]))
            higher[slot[language], r] += ahead.sum(dim=0, dtype=torch.int32)
    return higher.cpu().numpy(), tied.cpu().numpy()


def ranking_keys(scores: Float32, id_order: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """64-bit keys whose order is the ranking: score first, then id. All keys of a question differ."""
    bits = (scores + np.float32(0.0)).view(np.uint32)  # + 0.0 makes -0.0 equal to 0.0
    ordered = np.where(bits & SIGN_BIT, ~bits, bits | SIGN_BIT)
    return (ordered.astype(np.uint64) << np.uint64(32)) | id_order


def decode_keys(keys: NDArray[np.uint64]) -> tuple[Float32, NDArray[np.uint32]]:
    """Scores and id orders of `ranking_keys`."""
    ordered = (keys >> np.uint64(32)).astype(np.uint32)
    bits = np.where(ordered & SIGN_BIT, ordered ^ SIGN_BIT, ~ordered)
    return bits.view(np.float32), keys.astype(np.uint32)


def merge_top(
    top_Bk: NDArray[np.uint64], scores_CB: Float32, id_order_C: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """The k largest keys of each question among those kept so far (0 = none yet) and a block's.

    Only scores that reach the worst kept one are looked at: after the first blocks about k / (candidates
    seen) of them. With mass ties all do, and the cost is a partition of k + C keys.
    """
    width, k = top_Bk.shape
    worst = top_Bk.min(axis=1)
    floor, _ = decode_keys(worst)
    floor = np.where(worst == 0, np.float32(-np.inf), floor)
    reached_CB = scores_CB >= floor
    per_question = np.add.reduce(reached_CB, axis=0, dtype=np.int64)
    most = int(per_question.max(initial=0))
    if most == 0:
        return top_Bk
    if most * 2 > len(scores_CB):
        new = ranking_keys(np.ascontiguousarray(scores_CB.T), id_order_C[None, :])
    else:
        candidate, question = np.nonzero(reached_CB)
        by_question = np.argsort(question, kind="stable")
        candidate, question = candidate[by_question], question[by_question]
        starts = np.cumsum(per_question) - per_question
        new = np.zeros((width, most), np.uint64)
        new[question, np.arange(len(question)) - starts[question]] = ranking_keys(
            scores_CB[candidate, question], id_order_C[candidate]
        )
    together = np.concatenate([top_Bk, new], axis=1)
    return np.partition(together, together.shape[1] - k, axis=1)[:, -k:]
