"""Read Parquet tables row by row, each row with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.files import unreadable

_ROWS_PER_READ = 1_000


def parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) of a Parquet file; rows count from 0.

    Raises:
        UserError: the file is absent, or not a Parquet file.
    """
    batches = _open_parquet(path).iter_batches(_ROWS_PER_READ)
    rows = (row for batch in batches for row in batch.to_pylist())
    return ((f"{path} row {number}", row) for number, row in enumerate(rows))


def _open_parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except FileNotFoundError as error:
        raise unreadable(path, error) from None
    except (pyarrow.ArrowException, OSError) as error:
        problem = f"not a readable Parquet file ({first_line(error)})"
        raise UserError(str(path), problem, "write it once more") from None
