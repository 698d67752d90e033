"""Hold the names: a variable is a noun of the domain, a function a verb.

At each of the words below a reader would look back for the noun that it stands for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REFUSED = re.compile(
    r"own_.*|found|ones?|places?|asked|own|others?|beside|there|wanted|mine|here|told|again|meant|things?"
)


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that a module binds, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name="mine"):  # the verb
                continue
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case (
                ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name))
            ):
                yield name, node.lineno


def is_refused(name: str) -> bool:
    """Whether a name says nothing of what it names; `own_` is `user_`, `local_` or nothing."""
    return REFUSED.fullmatch(name.strip("_")) is not None


@pytest.mark.parametrize("room", sorted(path.name for path in (ROOT / "hbt_dist").iterdir() if path.is_dir()))
def test_names_are_nouns_of_the_domain(room: str) -> None:
    refused = [
        f"{file.relative_to(ROOT)}:{line} {name}"
        for file in sorted((ROOT / "hbt_dist" / room).rglob("*.py"))
        for name, line in bound_names(ast.parse(file.read_text("utf-8")))
        if is_refused(name)
    ]
    assert not refused, "\n".join(refused)


def test_a_refused_name_is_seen() -> None:
    code = "for one in rows:\n    found = [place for place in one]\ndef f(own_rows): self.there = 1\n"
    names = [name for name, _ in bound_names(ast.parse(code)) if is_refused(name)]
    assert sorted(names) == ["found", "one", "own_rows", "place", "there"]
