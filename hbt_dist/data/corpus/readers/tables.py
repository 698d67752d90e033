"""Read tables with a column mapping: Parquet files, and data sets of the Hugging Face hub through `datasets`.

The mapping (columns.py) says which column holds what.
"""

from __future__ import annotations

from collections.abc import Iterator

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.corpus.readers.base import ReadingNotes, SourceReader, source_path
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.corpus.tables.mapped import mapped_records
from hbt_dist.data.tables import parquet_rows


def open_parquet(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a Parquet file, or all `*.parquet` of a folder in the order of their names."""
    path = source_path(source)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(str(path), "holds no .parquet file", "name the file itself")

    notes = ReadingNotes()

    def records() -> Iterator[TrainingRecord]:
        rows = (row for file in files for row in parquet_rows(file))
        return mapped_records(rows, source.columns, languages, notes, ragged=False)

    return SourceReader(records=records, files=files, notes=notes)


def open_hub(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a data set of the hub (or a local folder that `datasets` can load) by name.

    Downloads go where `datasets` keeps them (HF_HOME). Its own fingerprint stands for its content.
    """
    import datasets

    location = f"data set {source.path}"
    try:
        data = datasets.load_dataset(
            str(source.path), source.hub_config, split=source.hub_split, revision=source.hub_revision
        )
    except Exception as error:  # the library raises a dozen kinds for network, name, split and format
        raise UserError(
            location,
            f"cannot be loaded ({first_line(error)})",
            "check name, hub_config, hub_split and the network",
        ) from error
    notes = ReadingNotes()

    def records() -> Iterator[TrainingRecord]:
        rows = ((f"{location} row {number}", row) for number, row in enumerate(data))
        return mapped_records(rows, source.columns, languages, notes, ragged=False)

    return SourceReader(records=records, identity=f"{source.path} {data._fingerprint}", notes=notes)
