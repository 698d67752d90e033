"""Open a source with the reader of its format, or with a reader of the user."""

from __future__ import annotations

import importlib
from dataclasses import replace

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function, load_user_function, user_digest, user_error
from hbt_dist.data.corpus.readers.base import Opener, SourceReader
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.corpus.user_records import checked_records

__all__ = ["SourceReader", "open_source"]

# Imported when needed, so that one format's needs (datasets, Babel) don't slow the others.
_READERS = {
    **dict.fromkeys(("jsonl", "csv", "tsv", "parquet", "arrow"), ("tables", "open_table")),
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
        languages: the requested languages, None for all. Records may hold more; the corpus leaves them out.
        missing: whether a language that the source as a whole lacks is an error.

    Raises:
        UserError: a file or a language is missing; a user-defined reader cannot be imported, or returns
            something else than a `SourceReader`.
    """
    if is_user_function(source.format):
        return _open_user_defined(source, languages, missing)
    module, function = _READERS[source.format]
    opener: Opener = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return opener(source, languages, missing)


def _open_user_defined(
    source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing
) -> SourceReader:
    """Open a source with the user's function; the digest of its module is part of what decides the rows."""
    location = f"source {source.name}, format"
    function = load_user_function(source.format, location)
    try:
        reader = function(source, languages, missing)
    except UserError:
        raise
    except Exception as error:  # the user's function can raise anything
        raise user_error(error, source.format, location) from error
    if not isinstance(reader, SourceReader):
        raise UserError(
            location,
            f"{source.format} returned {type(reader).__name__}",
            "return hbt_dist.data.corpus.readers.SourceReader(records=..., files=[...])",
        )
    return replace(
        reader,
        records=lambda: checked_records(reader.records, source.format, source.name),
        identity=f"{user_digest(source.format)} {reader.identity}",
    )
