"""Kinds of batches as a user writes them; the property tests run over them too."""

from __future__ import annotations

from hbt_dist.batching.kinds import RowPairs


def from_first(languages: tuple[str, ...]) -> RowPairs:
    """The first language asks, the others answer."""
    return RowPairs(tuple((languages[0], other) for other in languages[1:]))


def pair_batches(languages: tuple[str, ...]) -> RowPairs:
    """Every batch in one ordered pair, the pair of a language with itself included."""
    return RowPairs(tuple((a, b) for a in languages for b in reversed(languages)), one_per_batch=True)


def neighbours(languages: tuple[str, ...]) -> RowPairs:
    """Each language with itself and with the next one."""
    steps = [(a, b) for number, a in enumerate(languages) for b in languages[number : number + 2]]
    return RowPairs(tuple(steps))
