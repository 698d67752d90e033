"""Define the kinds of batches by the language pairs of a row: see `MixtureEntry.kind` in settings.py.

A user-defined kind is a function, named `module:function`, that returns the ordered pairs of languages a row
can have: `function(languages) -> RowPairs`. It knows neither seed nor step nor rank. The plan decides the
order of the rows, so the batches of such a kind, too, are a function of seed and step.
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
    """The language pairs of a user-defined kind.

    Attributes:
        pairs: (question language, passage language) of a row; `batches.pairs` weighs them.
        one_per_batch: whether all rows of a batch (or sub-batch) have one pair, drawn anew for each.
    """

    pairs: tuple[tuple[str, str], ...]
    one_per_batch: bool = False


@lru_cache(maxsize=256)
def user_pairs(name: str, languages: tuple[str, ...]) -> RowPairs:
    """Return the pairs of a user-defined kind for these languages, in the order of the languages.

    Raises:
        UserError: the function cannot be imported, or does not return pairs of these languages.
    """
    location = f"batches.mixture, kind {name}"
    result = load_user_function(name, location)(languages)
    expected = 'return RowPairs(pairs=(("en", "fi"), ...)), each pair once'
    if not isinstance(result, RowPairs):
        raise UserError(location, f"returned {type(result).__name__}", expected)
    pairs = [tuple(pair) for pair in result.pairs]
    for pair in pairs:
        if len(pair) != 2 or not set(pair) <= set(languages):
            raise UserError(location, f"{pair!r} is not a pair of {', '.join(languages)}", expected)
    if len(set(pairs)) != len(pairs):
        raise UserError(location, "gives a pair twice", expected)
    if not pairs:
        raise UserError(
            location,
            f"gives no pair for {', '.join(languages)}",
            "add a language that it needs, or leave the kind out of the mixture",
        )
    ordered = sorted(pairs, key=lambda pair: (languages.index(pair[0]), languages.index(pair[1])))
    return RowPairs(tuple((question, passage) for question, passage in ordered), bool(result.one_per_batch))


def all_kinds(names: list[str]) -> tuple[str, ...]:
    """Return the package's kinds, then the user-defined kinds among the names: rows are numbered by it."""
    return (*KINDS, *dict.fromkeys(name for name in names if is_user_function(name)))
