"""Store rows in memory as an Arrow file, so that a run can train on them.

    {"name": "mine", "rows": [{"question": {"en": "..."}, "passage": {"en": "..."}}, ...]}

becomes a source of format ``arrow``. The file has the name of its content: the same rows give the same file,
which a resumed run, each worker and the fingerprint of the corpus read like any other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, expected, first_line
from hbt_dist.common.files import explained_write, sha256_of

ROWS = "a list of dicts, a datasets.Dataset or a data frame"
_EXAMPLE = '[{"question": {"en": "Where is Turku?"}, "passage": {"en": "Turku is in Finland."}}]'
#: `data.cache_dir` of runs that name none.
CACHE_DIR = ".cache/hbt_dist"
#: Rows per batch of the file: how the rows were cut in memory must not change its content.
_BATCH = 10_000


def stored_rows(rows: Any, cache_dir: str | Path) -> Path:
    """Write rows to an Arrow file in a cache folder, unless it is there, and return its path.

    Args:
        rows: list of dicts (a dict that lacks a key has null there), `datasets.Dataset`, or a data frame of
            pandas, polars or pyarrow.
        cache_dir: `data.cache_dir` of the run.

    Raises:
        UserError: the rows are of another type, empty, or cannot be stored; the folder cannot be written.
    """
    import pyarrow

    table = _table(rows).replace_schema_metadata(None).combine_chunks()
    if not table.num_rows:
        raise UserError("rows", "expected at least one row, got none", "give the lines to train on")
    folder = Path(cache_dir) / "rows"
    with explained_write(folder, "choose another data.cache_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            file = Path(temporary) / "rows.arrow"
            with pyarrow.ipc.new_file(file, table.schema) as writer:
                for batch in table.to_batches(max_chunksize=_BATCH):
                    # built anew: a part of a larger table would be written in other bytes
                    rebuilt = pyarrow.RecordBatch.from_pylist(batch.to_pylist(), schema=table.schema)
                    writer.write_batch(rebuilt)
            path = folder / f"rows-{sha256_of(file)[:24]}.arrow"
            file.replace(path)
    return path


def with_stored_rows(data: Mapping[str, Any], location: str) -> dict[str, Any]:
    """Return the block `data` of a run with files in place of rows in memory.

    Args:
        data: the block as plain data; a source may have `rows` instead of format and path.
        location: of the block, for messages.

    Raises:
        UserError: see `stored_rows`; a source has rows and a path.
    """
    sources = data.get("sources")
    if not isinstance(sources, list | tuple):
        return dict(data)
    folder = data.get("cache_dir") or CACHE_DIR
    return {
        **data,
        "sources": [
            _stored(source, folder, f"{location}.{number}")
            if isinstance(source, Mapping) and "rows" in source
            else source
            for number, source in enumerate(sources)
        ],
    }


def _stored(source: Mapping[str, Any], folder: str | Path, location: str) -> dict[str, Any]:
    """Return a source that reads the file of its rows."""
    rest = {key: value for key, value in source.items() if key != "rows"}
    for key in ("path", "format"):
        if key in rest:
            raise UserError(
                location,
                f"expected rows or {key}, got both",
                f"remove {key}: rows are stored as an Arrow file",
            )
    try:
        path = stored_rows(source["rows"], folder)
    except UserError as error:
        where = f"{location}, {error.location}" if error.location != "rows" else f"{location}.rows"
        raise UserError(where, error.problem, error.remedy) from error
    return {"name": "rows", **rest, "format": "arrow", "path": str(path)}


def _table(rows: Any) -> Any:
    """Return rows as a table of pyarrow."""
    import pyarrow

    problem = expected("rows", ROWS, rows, f"for example {_EXAMPLE}")
    try:
        if hasattr(rows, "with_format") and hasattr(rows, "column_names") and hasattr(rows, "__len__"):
            if isinstance(rows, Mapping):
                raise UserError(
                    "rows", problem.problem, f"give one of its parts: {', '.join(map(str, rows))}"
                )
            return rows.with_format("arrow")[:]  # a selection or shuffled rows of `datasets` too
        if hasattr(rows, "iloc"):
            return pyarrow.Table.from_pandas(rows, preserve_index=False)
        if hasattr(rows, "__arrow_c_stream__"):
            return pyarrow.table(rows)
        if isinstance(rows, Mapping | str | bytes) or not isinstance(rows, Sequence):
            raise problem
        for number, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise expected(f"row {number}", "a dict", row, f"for example {_EXAMPLE[1:-1]}")
        names = dict.fromkeys(name for row in rows for name in row)  # pyarrow looks at the first row only
        return pyarrow.table({str(name): [row.get(name) for row in rows] for name in names})
    except (pyarrow.ArrowException, TypeError, OverflowError) as error:
        raise UserError(
            "rows", f"cannot be stored as a table: {first_line(error)}", "give each column values of one type"
        ) from error
