"""Which part of a data set a document belongs to, so that training and evaluation never share one.

    all = train + eval,   eval = dev + test

What is held out (`eval`) is the data set's own business: the readers say how. `dev` and `test` halve it by
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


def half_of(document: str) -> Literal["dev", "test"]:
    """The half of the held-out part in which a document with this id would be."""
    number = int(hashlib.sha256(f"dev or test: {document}".encode()).hexdigest(), 16)
    return "dev" if number % 2 == 0 else "test"


def in_split(split: Split, document: str, held_out: bool) -> bool:
    """Whether a document belongs to a part.

    Args:
        split: the part.
        document: the document's id.
        held_out: whether the data set holds it out for evaluation.
    """
    if split == "all":
        return True
    if split == "train":
        return not held_out
    return held_out and split in ("eval", half_of(document))
