"""Read dictionaries of FreeDict (https://freedict.org), packaged by Debian as dict-freedict-eng-fin etc.

dictd keeps a dictionary as two files. NAME.index has a line `headword <tab> offset <tab> length` per entry,
both numbers in base 64; NAME.dict.dz (gzip) holds the entries, written for people:

    river //ˈɹɪvə// <n>
    1. virta, joki
    any large flow of a liquid
    2. joki, virta

Read as a dictionary for code-switching: single words only, each with the translation that most of its senses
name (above: joki). Old editions shorten headwords ("the Hague" to "the"), so entries in lower case and with
more translations go first. About 25,000 words a second, once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import open_bytes, read_lines
from hbt_dist.methods.code_switching.words import is_word

FILE_NAME = re.compile(r"freedict-([a-z]{3}-[a-z]{3})\.index")

_VALUES = {digit: value for value, digit in enumerate(f"{ascii_uppercase}{ascii_lowercase}{digits}+/")}
_MOST_WORDS = 3  # longer "translations" are explanations

_NUMBER = re.compile(r"^\s*\d+\.\s*")
_NEXT_SENSE = re.compile(r"\s\d+\.")
_REMARK = re.compile(r"\[[^]]*\]|\([^)]*\)|<[^>]*>|\{[^}]*\}")
_NO_TRANSLATION = re.compile(r"[+|/\"“”:=\d]|(^|\s)-|\.\S")


def read_freedict(index: Path) -> dict[str, str]:
    """Return lower-case word -> translation of the dictionary whose index file this is.

    Raises:
        UserError: one of the two files cannot be read, or does not belong to the other (with the line).
    """
    entries = next(filter(Path.is_file, map(index.with_suffix, (".dict.dz", ".dict"))), None)
    if entries is None:
        raise UserError(
            str(index),
            f"has no {index.with_suffix('.dict.dz').name} in the same folder",
            "copy both files of a dictionary",
        )
    with open_bytes(entries) as stream:
        content = stream.read()
    entries_of: dict[str, list[tuple[bool, list[str]]]] = {}
    for location, word, start, length in _single_words(index):
        if start + length > len(content):
            raise UserError(
                location,
                f"points past the end of {entries.name} ({start + length:,} of {len(content):,} bytes)",
                "both files must come from one package: install it again",
            )
        entry = content[start : start + length].decode("utf-8", "replace")
        if named := list(_translations(word, entry)):
            entries_of.setdefault(word.lower(), []).append((word != word.lower(), named))
    best = {word: _most_named(of_entries) for word, of_entries in entries_of.items()}
    if not best:
        raise UserError(str(index), "holds no word with a translation", "is it a dictionary of FreeDict?")
    return best


def _most_named(entries: list[tuple[bool, list[str]]]) -> str:
    """What the entries (is a name, translations) of a word name most often; of equals the first."""
    if not all(is_name for is_name, _ in entries):
        entries = [entry for entry in entries if not entry[0]]
    longest_first = sorted((named for _, named in entries), key=len, reverse=True)
    return Counter(word for named in longest_first for word in named).most_common(1)[0][0]


def _single_words(index: Path) -> Iterator[tuple[str, str, int, int]]:
    """Yield (location, headword, first byte of its entry, bytes of its entry), single words only."""
    for number, line in read_lines(index):
        location = f"{index} line {number}"
        parts = line.split("\t")
        if len(parts) < 3 or not all(part and set(part) <= _VALUES.keys() for part in parts[1:3]):
            raise UserError(
                location,
                f"is not a line of a dictd index: {line[:60]!r}",
                "each line holds headword, offset and length, separated by tabs",
            )
        if is_word(parts[0]):
            yield location, parts[0], _base64(parts[1]), _base64(parts[2])


def _base64(number: str) -> int:
    return sum(_VALUES[digit] * 64**power for power, digit in enumerate(reversed(number)))


def _translations(word: str, entry: str) -> Iterator[str]:
    """The translations in an entry of `word`, sense by sense; none if it is an inflected form or a phrase."""
    head, _, body = entry.partition("\n")
    after = head[len(word) :]
    if head[: len(word)].lower() != word.lower() or (after and not re.match(r" [/<(]", after)):
        return
    lines = [line for line in body.splitlines() if line.strip()]
    for sense in lines[:1] + [line for line in lines[1:] if _NUMBER.match(line)]:
        plain = _REMARK.sub("", _NEXT_SENSE.split(_NUMBER.sub("", sense))[0]).replace("~", " ")
        for part in re.split(r"[,;،、]", plain):
            words = part.rstrip(" .").split()
            if not 0 < len(words) <= _MOST_WORDS or _NO_TRANSLATION.search(part):
                continue
            translation = " ".join(words)
            if translation.lower() != word.lower() and any(letter.isalpha() for letter in translation):
                yield translation
