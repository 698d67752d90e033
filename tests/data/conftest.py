"""Small data sets made by code, for the tests of the data room."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings

Row = dict[str, Any]


def example(number: int, languages: Iterable[str] = ("en", "fi"), **changes: Any) -> Row:
    """A valid line of the training format."""
    row: Row = {
        "id": f"q{number}",
        "question": {language: f"question {number} {language}" for language in languages},
        "passage": {language: f"passage {number} {language}" for language in languages},
    }
    return row | changes


@pytest.fixture
def make_example() -> Callable[..., Row]:
    return example


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[[str, Iterable[object]], Path]:
    """Write objects (or raw strings) as lines of a file below tmp_path; `.gz` is compressed."""

    def write(name: str, rows: Iterable[object]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        raw = text.encode("utf-8", "surrogatepass")
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
        return path

    return write


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Corpus]:
    """Build a corpus of one source (or of `sources`) in a cache below tmp_path."""

    def make(path: Path | None = None, format: str = "jsonl", **options: Any) -> Corpus:
        block = {key: options.pop(key) for key in ("languages", "missing", "sources") if key in options}
        block.setdefault("sources", [{"name": "one", "format": format, "path": str(path), **options}])
        return build_corpus(DataSettings(**block), tmp_path / "cache")

    return make
