"""Turn texts into sets of hashed shingles (runs of consecutive words), to find all near-duplicates.

A text is normalised first: NFKC, case-folded, invisible characters removed, punctuation and symbols turned to
spaces. Its units are its words, or its characters in languages written without spaces. A shingle is a run of
`shingle_units(language)` units: 5 words; 10 characters in Chinese and Japanese, 20 in Thai, Lao, Khmer and
Burmese, about the length of 5 words.

Shingles are 64-bit hashes made by NumPy from hashes of the units: about 4 s for 10 million words on one core.
Two different shingles are taken for one with probability 1e-8 among 10 million against 400,000.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.corpus.duplicate_groups import hash64
from hbt_dist.data.invisible import without_format

UInt64 = NDArray[np.uint64]
Int64 = NDArray[np.int64]

WORDS = 5
CHARACTERS = {"zh": 10, "ja": 10, "th": 20, "lo": 20, "km": 20, "my": 20}

_MOST_WORDS = 2_000_000  # remembered hashes of words, about 200 MB
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)


@cache
def _spaces() -> re.Pattern[str]:
    """Return the pattern of characters to turn to spaces: punctuation, symbols, controls.

    Only emoji and pictographs of the planes behind the first count as symbols: `re` looks a character of the
    first plane up in a table, but goes through later planes one by one.
    """
    spaces = ["\U0001f000-\U0001fbff"]
    for code in range(0x10000):
        category = unicodedata.category(chr(code))
        if category[0] in "PSZ" or category == "Cc":
            spaces.append(re.escape(chr(code)))
    return re.compile(f"[{''.join(spaces)}]+")


def normalise(text: str) -> str:
    """Return the text without irrelevant differences: case, compatibility forms, punctuation, white space."""
    if not text.isascii():
        text = without_format(unicodedata.normalize("NFKC", text))
    return " ".join(_spaces().sub(" ", text.casefold()).split())


def shingle_units(language: str) -> int:
    """Return the number of units of a shingle in a language."""
    return CHARACTERS.get(language, WORDS)


@dataclass(frozen=True)
class ShingledTexts:
    """The shingles of n texts, flat.

    Attributes:
        exact: (n,) hash of each normalised text.
        num_units: (n,) words, or characters, of each text.
        row: (S,) the text of each distinct shingle, ascending.
        shingle: (S,) its hash; each text has each of its shingles once.
    """

    exact: UInt64
    num_units: Int64
    row: Int64
    shingle: UInt64


class Shingler:
    """Makes shingles; remembers the hashes of words from one call to the next."""

    def __init__(self) -> None:
        self._words: dict[str, int] = {}

    def __call__(self, texts: Sequence[str], language: str) -> ShingledTexts:
        """Return the shingles of texts in one language."""
        normal = [normalise(text) for text in texts]
        if language in CHARACTERS:
            squeezed = ["".join(text.split()) for text in normal]
            num_units = np.array([len(text) for text in squeezed], np.int64)
            codes = np.frombuffer("".join(squeezed).encode("utf-32-le"), "<u4")
            units = _scramble(codes.astype(np.uint64) + np.uint64(1))
            normal = squeezed
        else:
            words = [text.split() for text in normal]
            num_units = np.array([len(text_words) for text_words in words], np.int64)
            units = np.fromiter(
                (self._hash(word) for text_words in words for word in text_words),
                np.uint64,
                int(num_units.sum()),
            )
        exact = np.array([hash64(text) for text in normal], np.uint64)
        row, shingle = _windows(units, num_units, shingle_units(language))
        return ShingledTexts(exact, num_units, row, shingle)

    def _hash(self, word: str) -> int:
        known = self._words.get(word)
        if known is None:
            if len(self._words) >= _MOST_WORDS:
                self._words.clear()
            known = self._words[word] = hash64(word)
        return known


def _windows(units: UInt64, num_units: Int64, width: int) -> tuple[Int64, UInt64]:
    """Return (text, hash) of each distinct run of `width` units inside a text."""
    num_windows = np.maximum(num_units - width + 1, 0)
    row = np.repeat(np.arange(len(num_units)), num_windows)
    if not len(row):
        return row, np.zeros(0, np.uint64)
    total = np.zeros(len(units) - width + 1, np.uint64)
    for offset in range(width):
        total = total * _FACTOR + units[offset : offset + len(total)]
    first = np.repeat(np.cumsum(num_units) - num_units, num_windows)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(num_windows) - num_windows, num_windows)
    shingle = _scramble(total[first + offset])
    # Once per text: sort by text, then hash, through one key that mixes both.
    key = shingle ^ _scramble(row.astype(np.uint64))
    _, once = np.unique(key, return_index=True)
    once.sort()
    return row[once], shingle[once]


def _scramble(values: UInt64) -> UInt64:
    mixed = (values ^ (values >> np.uint64(30))) * _MIX
    return mixed ^ (mixed >> np.uint64(31))
