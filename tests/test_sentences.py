"""Reject phrases of a translation in the documentation and in docstrings, comments and messages of the code.

    python tests/test_sentences.py [-v]     # count the matches of each room; -v prints every match

Each pattern has its replacement. A number without its leading zero is a phrase, too.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = {
    r"\bbeside\b": "next to, with, in addition to",
    r"\b(tells?|told|telling)\b": "report, print, show, distinguish",
    r"\bof (one's|its|their|his|your|the user's|a user's) own\b": "own, separate, user-defined",
    r"\bso (many|long|much|few)\b": "N, for that time",
    r"\bnone: ": "default: ...",
    r"\b([Ww]hatever|[Ww]hoever)\b": "name the thing or the actor",
    r"\bno more\b(?! than)": "no longer",
    r"\b(stands?|lies?|lay) (in|at|on|under|below|above|behind|there|where)\b": "is in",
    r"(?<!here )\b(is|are) no (?!longer\b|more\b)[a-z]": "is not a",
    r"(?:^|[.!?;:] )(Of (?!course)|Refused (?:is|are)\b|Refused:|What may )": "begin with the subject",
    r"(?<![\w.:\\/*])\.\d+(?![\dfge%])": "leading zero: 0.05",
    r"\b[Ll]ooks? whether\b": "check that",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b([Nn]obody|[Ss]omebody)\b": "name the actor",
    r"\b(as ever|at hand)\b": "available",
    r"\b(says? so|without a word|says? no word)\b": "reports it, silently",
    r"\bmay not\b": "must not, cannot",
    r"\b(to the digit|with the same digits)\b": "exactly equal",
    r"\b(are others|is another's)\b": "have changed, belongs to",
    r"\bof which\b": "two sentences",
}
#: Files that are not our prose.
EXCEPTIONS = {
    "hbt_dist/data/sample/": "sentences in 22 languages",
    "hbt_dist/methods/expansion/prompts.py": "prompts of a paper: other words would give other expansions",
}
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "deepspeed_configs/README.md",
    "benchmarks/README.md",
]
CODE = [
    "hbt_dist/**/*.py",
    "hbt_dist/**/*.yaml",
    "launchers/*",
    "ray_configs/**/*.yaml",
    "docs/*.py",
    "benchmarks/**/*.py",
]


class Match(NamedTuple):
    """A phrase where it was found."""

    file: str
    line: int
    text: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text!r}: {self.remedy}"


def matches(patterns: list[str]) -> list[Match]:
    """All phrases in the files of these glob patterns."""
    files = sorted({path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()})
    return [match for path in files for match in matches_of(path)]


def matches_of(path: Path) -> Iterator[Match]:
    """The phrases of one file; none in a file of EXCEPTIONS."""
    name = path.relative_to(ROOT).as_posix()
    if name.startswith(tuple(EXCEPTIONS)):
        return
    source = path.read_text("utf-8")
    for line, text in prose_of_python(source) if path.suffix == ".py" else prose_of_text(source):
        for pattern, remedy in PATTERNS.items():
            for match in re.finditer(pattern, text):
                excerpt = text[max(match.start() - 30, 0) : match.end() + 20]
                yield Match(name, line, excerpt, remedy)


def prose_of_text(source: str) -> Iterator[tuple[int, str]]:
    """Paragraphs with the number of their first line; comment marks are removed."""
    paragraph: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""], 1):
        words = line.strip().lstrip("#>").strip()
        if words and not words.startswith(("|", "* ", "- ")):
            paragraph.append(words)
            continue
        if paragraph:
            yield number - len(paragraph), " ".join(paragraph)
        paragraph = [words.lstrip("|*- ")] if words else []


def prose_of_python(source: str) -> Iterator[tuple[int, str]]:
    """String literals, docstrings included, and blocks of comments, each with its first line number."""
    tree = ast.parse(source)
    formats = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.FormattedValue) and node.format_spec is not None
        for part in ast.walk(node.format_spec)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in formats:
            yield node.lineno, " ".join(node.value.split())
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != last + 1:
            yield first, " ".join(block)
            block = []
        first = first if block else token.start[0]
        last = token.start[0]
        block.append(token.string.lstrip("#: "))
    if block:
        yield first, " ".join(block)


def test_documentation_has_none_of_the_phrases() -> None:
    assert [str(match) for match in matches(DOCUMENTS)] == []


def test_code_has_none_of_the_phrases() -> None:
    assert [str(match) for match in matches(CODE)] == []


@pytest.mark.parametrize(
    ("source", "phrase"),
    [
        ('"""The files lie in a folder."""', "lie in"),
        ('"""First line.\n\n    Of this nothing is kept.\n"""', "Of "),
        ("x = 1  # it tells\n", "tells"),
        ("# the parts that so\n# many readers want\n", "so many"),
        ('f"gain {x:.3f} is below .05"', ".05"),
        ('("is no " "number")', "is no n"),
    ],
)
def test_phrases_are_found(source: str, phrase: str) -> None:
    texts = [text for _, text in prose_of_python(source)]
    found = [match[0] for text in texts for pattern in PATTERNS for match in re.finditer(pattern, text)]
    assert any(phrase in match for match in found), texts


@pytest.mark.parametrize(
    "source", ['f"{x:.3f}"', '"besides"', '"no more than 0.05"', '"is no longer valid"', '"v2.0.1"']
)
def test_sound_phrases_are_not_found(source: str) -> None:
    texts = [text for _, text in prose_of_python(source)]
    assert not any(re.search(pattern, text) for text in texts for pattern in PATTERNS)


if __name__ == "__main__":
    hits = matches([*DOCUMENTS, *CODE])
    if "-v" in sys.argv:
        print(*hits, sep="\n")
    rooms = Counter("/".join(match.file.split("/")[:2]) for match in hits)
    print(*(f"{count:5} {room}" for room, count in rooms.most_common()), f"{len(hits):5} in all", sep="\n")
