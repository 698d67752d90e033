"""Hard negatives of the rows of a batch: from the data where it has them, random passages where it has not.

The hard negatives of an example are visited in a rotation, so over epochs all of them are used. A passage
of the row's own group (the positive, its translations, passages with the same text or question) is never
a negative of the row. A row whose example has too few in the wanted language is filled up with passages
drawn at random among those that have it (holders.py): 4,096 of them in about 2 ms, whatever the number of
passages (benchmarks/results/batching_negatives.md).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.counter_random import Int64s, below
from hbt_dist.batching.holders import Holders
from hbt_dist.common.errors import UserError

_LOOK_AHEAD = 16  # candidates of an example that are looked at in one go
_RANDOM_ROUNDS = 24
_WALK = 4096  # passages that are looked at in one go

Int32s = NDArray[np.int32]
Bools = NDArray[np.bool_]


def unused_negatives(corpus: PlanCorpus, count: int) -> str:
    """One line if the corpus has hard negatives and the batches, with `count` per row, take none; else ""."""
    held = int(corpus.negative_offsets[-1])
    if count or not held:
        return ""
    return f"{held:,} hard negatives are not used: batches.hard_negatives.count is 0"


def hard_negatives(
    corpus: PlanCorpus, holders: Holders, example: Int64s, group: Int64s, language: Int32s, key: int
) -> tuple[Int64s, Bools]:
    """Return passage rows (B, n) and whether each was filled in at random (B, n).

    Args:
        corpus: what the rows come from.
        holders: its passages by language.
        example: (B,) examples.
        group: (B,) their groups.
        language: (B, n) language wanted for each negative.
        key: of the step.

    Raises:
        UserError: a language has too few passages for the count.
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
    _fill(corpus, holders, chosen, group, language, key)
    return chosen, filled


def _allowed(corpus: PlanCorpus, passage: Int64s, group: Int64s, language: Int32s) -> Bools:
    return (np.asarray(corpus.passage_group)[passage] != group) & corpus.passage_has(passage, language)


def _fill(
    corpus: PlanCorpus, holders: Holders, chosen: Int64s, group: Int64s, language: Int32s, key: int
) -> None:
    """Put random passages that have the language where `chosen` is -1."""
    count = chosen.shape[1]
    open_cells = np.flatnonzero(chosen.ravel() < 0)
    for attempt in range(_RANDOM_ROUNDS):
        if not len(open_cells):
            return
        row, wanted = open_cells // count, language.ravel()[open_cells]
        there = holders.count[wanted]
        if not there.all():
            raise _too_few(corpus, int(wanted[there == 0][0]), count)
        number = below(key, open_cells * _RANDOM_ROUNDS + attempt + 2**40, there)
        candidate = holders.passages(number, wanted)
        good = np.asarray(corpus.passage_group)[candidate] != group[row]
        good &= ~(chosen[row] == candidate[:, None]).any(axis=1)
        # Two cells of one row may draw the same passage in one attempt: the first keeps it.
        once = np.zeros(len(row), np.bool_)
        once[np.unique(row * corpus.num_passages + candidate, return_index=True)[1]] = True
        good &= once
        chosen.ravel()[open_cells[good]] = candidate[good]
        open_cells = open_cells[~good]
    for cell in open_cells.tolist():  # few passages in the language, or most of them in the row's group
        at, place = divmod(cell, count)
        chosen[at, place] = _first_free(
            corpus, holders, chosen[at], int(group[at]), int(language[at, place]), key, cell
        )


def _first_free(
    corpus: PlanCorpus, holders: Holders, taken: Int64s, group: int, language: int, key: int, cell: int
) -> int:
    """Return the first passage in the language that the row may have, from a random one on."""
    there = int(holders.count[language])
    start = int(below(key, np.array([cell]), there)[0])
    for done in range(0, there, _WALK):
        number = (start + np.arange(done, min(done + _WALK, there))) % there
        passages = holders.passages(number, np.full(len(number), language))
        free = (np.asarray(corpus.passage_group)[passages] != group) & ~np.isin(passages, taken)
        if free.any():
            return int(passages[free.argmax()])
    raise _too_few(corpus, language, len(taken))


def _too_few(corpus: PlanCorpus, language: int, count: int) -> UserError:
    return UserError(
        "batches.hard_negatives.count",
        f"there are not {count} passages in {corpus.languages[language]!r} beside a row's own",
        "lower the count or leave the language out",
    )
