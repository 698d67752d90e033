"""Hard negatives of the rows of a batch: from the data where it has them, random passages where it has not.

The hard negatives of an example are visited in a rotation, so over epochs all of them are used. A passage
of the row's own group (the positive, its translations, passages with the same text or question) is never
a negative of the row. A row whose example has too few in the wanted language is filled up with passages
drawn at random among those that have it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.keyed import Int64s, below, hash64
from hbt_dist.errors import UserError

_LOOK_AHEAD = 16  # candidates of an example that are looked at in one go
_RANDOM_ROUNDS = 24

Int32s = NDArray[np.int32]
Bools = NDArray[np.bool_]


def hard_negatives(
    corpus: PlanCorpus, example: Int64s, group: Int64s, language: Int32s, key: int
) -> tuple[Int64s, Bools]:
    """Return passage rows (B, n) and whether each was filled in at random (B, n).

    Args:
        example: (B,) examples.
        group: (B,) their groups.
        language: (B, n) language wanted for each negative.
        key: of the step.
    """
    num_rows, count = language.shape
    chosen = np.full((num_rows, count), -1, np.int64)
    offsets = np.asarray(corpus.negative_offsets)
    first, held = offsets[example], offsets[example + 1] - offsets[example]
    turn = below(key, example, np.maximum(held, 1))
    found = np.zeros(num_rows, np.int64)
    seen = np.zeros(num_rows, np.int64)
    while len(rows := np.flatnonzero((found < count) & (seen < held))):
        ahead = seen[rows, None] + np.arange(count + _LOOK_AHEAD)
        exists = ahead < held[rows, None]
        place = first[rows, None] + (turn[rows, None] + ahead) % held[rows, None]
        passage = np.asarray(corpus.negatives)[place]
        for column in range(ahead.shape[1]):
            active = np.flatnonzero(exists[:, column] & (found[rows] < count))
            row, candidate = rows[active], passage[active, column]
            good = _allowed(corpus, candidate, group[row], language[row, found[row]])
            good &= ~(chosen[row] == candidate[:, None]).any(axis=1)
            chosen[row[good], found[row[good]]] = candidate[good]
            found[row[good]] += 1
        seen[rows] += count + _LOOK_AHEAD
    filled = chosen < 0
    _fill(corpus, chosen, group, language, key)
    return chosen, filled


def _allowed(corpus: PlanCorpus, passage: Int64s, group: Int64s, language: Int32s) -> Bools:
    return (np.asarray(corpus.passage_group)[passage] != group) & corpus.passage_has(passage, language)


def _fill(corpus: PlanCorpus, chosen: Int64s, group: Int64s, language: Int32s, key: int) -> None:
    """Put random passages where `chosen` is -1."""
    count = chosen.shape[1]
    open_cells = np.flatnonzero(chosen.ravel() < 0)
    for attempt in range(_RANDOM_ROUNDS):
        if not len(open_cells):
            return
        row = open_cells // count
        candidate = below(key, open_cells * _RANDOM_ROUNDS + attempt + 2**40, corpus.num_passages)
        good = _allowed(corpus, candidate, group[row], language.ravel()[open_cells])
        good &= ~(chosen[row] == candidate[:, None]).any(axis=1)
        # Two cells of one row may draw the same passage in one attempt: the first keeps it.
        once = np.zeros(len(row), np.bool_)
        once[np.unique(row * corpus.num_passages + candidate, return_index=True)[1]] = True
        good &= once
        chosen.ravel()[open_cells[good]] = candidate[good]
        open_cells = open_cells[~good]
    for wanted in np.unique(language.ravel()[open_cells]):  # a rare language: look through all passages
        everything = np.arange(corpus.num_passages)
        holders = everything[corpus.passage_has(everything, np.full(len(everything), wanted, np.int32))]
        holder_groups = np.asarray(corpus.passage_group)[holders]
        for cell in open_cells[language.ravel()[open_cells] == wanted]:
            row = cell // count
            free = holders[(holder_groups != group[row]) & ~np.isin(holders, chosen[row])]
            if not len(free):
                raise UserError(
                    "batches.hard_negatives.count",
                    f"there are not {count} passages in {corpus.languages[wanted]!r} beside a row's own",
                    "lower the count or leave the language out",
                )
            pick = int(hash64(key, np.array([cell]))[0] % np.uint64(len(free)))
            chosen.ravel()[cell] = free[pick]
