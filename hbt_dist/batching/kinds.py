"""The kinds of batches, by the languages of a row: see `MixtureEntry.kind` in config.py.

A kind of the user's own is a function, named `module:function`, that says which ordered pairs of languages a
row may have: `function(languages) -> RowPairs`. It knows neither seed nor step nor rank. Which rows come when
stays with the plan, so its batches are, like all others, a function of seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function, load_user_function

Kind = Literal["monolingual", "crosslingual", "mixed_monolingual", "any_pair"]
KINDS: tuple[Kind, ...] = ("monolingual", "crosslingual", "mixed_monolingual", "any_pair")


@dataclass(frozen=True)
class RowPairs:
    """What a kind of the user's own allows.

    Attributes:
        pairs: (question language, passage language) of a row; `batches.pairs` weighs them.
        one_per_batch: whether all rows of a batch (or sub-batch) are of one pair, drawn anew for each.
    """

    pairs: tuple[tuple[str, str], ...]
    one_per_batch: bool = False


@lru_cache(maxsize=256)
def own_pairs(name: str, languages: tuple[str, ...]) -> RowPairs:
    """What the user's function says of these languages; the pairs in the order of the languages.

    Raises:
        UserError: it cannot be imported, or gives no pairs of these languages.
    """
    place = f"batches.mixture, kind {name}"
    found = load_user_function(name, place)(languages)
    expected = 'return RowPairs(pairs=(("en", "fi"), ...)), each pair once'
    if not isinstance(found, RowPairs):
        raise UserError(place, f"returned {type(found).__name__}", expected)
    pairs = [tuple(pair) for pair in found.pairs]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(languages):
            raise UserError(place, f"{pair!r} is no pair of {', '.join(languages)}", expected)
    if len(set(pairs)) != len(pairs):
        raise UserError(place, "gives a pair twice", expected)
    if not pairs:
        raise UserError(
            place,
            f"gives no pair for {', '.join(languages)}",
            "add a language that it needs, or leave the kind out of the mixture",
        )
    rank = {language: number for number, language in enumerate(languages)}
    ordered = sorted(pairs, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return RowPairs(tuple((asked, answering) for asked, answering in ordered), bool(found.one_per_batch))


def all_kinds(named: list[str]) -> tuple[str, ...]:
    """The package's kinds, then those of the user's own among the named ones: what rows are numbered by."""
    return (*KINDS, *dict.fromkeys(name for name in named if is_user_function(name)))
