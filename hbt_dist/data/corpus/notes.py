"""Report what a conversion left unused, from the corpus' manifest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.data.corpus.corpus import Corpus

_SHOWN = 5


def reading_text(corpus: Corpus) -> str:
    """Report columns and hard negatives that each source left unused, in a line each."""
    statistics = corpus.manifest.get("statistics", [])
    return "\n".join(f"{source['name']}: {line}" for source in statistics for line in _lines(source))


def _lines(source: dict[str, Any]) -> Iterator[str]:
    if columns := source.get("columns"):
        yield "read by usual names, columns: " + ", ".join(f"{key}: {name}" for key, name in columns.items())
    if splits := source.get("splits_left_out"):
        number = counted(len(splits), "split")
        yield f"left out {number} of the folder: {', '.join(splits)}; hub_split names a split"
    if files := source.get("files_left_out"):
        more = f" and {len(files) - _SHOWN:,} more" if len(files) > _SHOWN else ""
        yield f"left out {counted(len(files), 'file')}: {', '.join(files[:_SHOWN])}{more}"
    for column, language in source.get("doubtful", {}).items():
        yield f"column {column!r} is not read as language {language!r}: if it is, list it in data.languages"
    if unused := [name for name in source.get("unused", []) if name not in source.get("doubtful", {})]:
        yield f"unused columns: {', '.join(unused)}"
    if count := source.get("repeating_negatives"):
        yield f"left out {count:,} hard negatives that are the passage itself"
    if count := source.get("passages_left_out"):
        yield f"left out {counted(count, 'passage')} without a requested language or like a benchmark"
