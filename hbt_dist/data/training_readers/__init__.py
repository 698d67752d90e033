"""One reader per public format; `open_source` picks it by the format's name."""

from __future__ import annotations

import importlib

from hbt_dist.data.config import Missing, SourceSettings
from hbt_dist.data.training_readers.base import Opener, SourceReader

__all__ = ["SourceReader", "open_source"]

# Imported when asked for, so that one format's needs (datasets, Babel) don't slow the others.
_READERS = {
    "jsonl": ("jsonl", "open_jsonl"),
    "parquet": ("tables", "open_parquet"),
    "hub": ("tables", "open_hub"),
    "squad-parallel": ("squad_parallel", "open_squad_parallel"),
    "squad": ("squad", "open_squad"),
    "mkqa": ("mkqa", "open_mkqa"),
    "exams": ("exams", "open_exams"),
    "ntrex": ("lines", "open_ntrex"),
    "sample": ("sample", "open_sample"),
}


def open_source(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a source; its files are found but not read.

    Args:
        languages: the languages asked of it, None for all. Records may hold others; they are left out later.
        missing: whether a language that the source as a whole lacks is an error.

    Raises:
        UserError: a file or a language is not there.
    """
    module, function = _READERS[source.format]
    opener: Opener = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return opener(source, languages, missing)
