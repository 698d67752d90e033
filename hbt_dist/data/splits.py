"""Assign every document of a data set to a part, so that training and evaluation never share a document.

    all = train + eval,   eval = dev + test

The readers decide what a data set holds out (`eval`). `dev` and `test` halve it by
SHA-256 of the id of the document (the unit that must not be torn: an NTREX document, a SQuAD article, an MKQA
question, an EXAMS cluster). Hashing the id keeps a document where it is when others are added or left out,
at the price of halves that are only about equal: NTREX 15 and 20 documents (194 and 427 sentences), MKQA 847
and 911 questions, `squad-en-fi` 11 and 5 articles.

Choose settings on `dev`, report `test`; `eval` is for models that were chosen on neither.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["all", "train", "eval", "dev", "test"]

#: The variants of a benchmark that has these parts, the default first.
VARIANTS: tuple[Split, ...] = ("eval", "dev", "test", "train", "all")


def one_in(parts: int, document: str) -> bool:
    """Return whether a document is held out where 1 of `parts` documents is, by SHA-256 of its id."""
    return int(hashlib.sha256(document.encode()).hexdigest(), 16) % parts == 0


def half_of(document: str) -> Literal["dev", "test"]:
    """Return the half of the held-out part in which a document with this id would be."""
    return "dev" if one_in(2, f"dev or test: {document}") else "test"


def in_split(split: Split, document: str, held_out: bool) -> bool:
    """Return whether a document belongs to a part.

    Args:
        split: the part.
        document: its id.
        held_out: whether the data set holds it out for evaluation.
    """
    if split == "all":
        return True
    if split == "train":
        return not held_out
    return held_out and split in ("eval", half_of(document))
