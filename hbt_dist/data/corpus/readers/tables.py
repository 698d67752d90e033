"""Open tables with a column mapping (columns.py): JSON lines, CSV, TSV, Parquet, Arrow files and folders that
`datasets` saved, and data sets of the Hugging Face hub.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.corpus.readers.base import ReadingNotes, SourceReader, source_path
from hbt_dist.data.corpus.readers.jsonl import is_training_format, training_records
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.corpus.tables.files import TableFile, file_rows, table_files
from hbt_dist.data.corpus.tables.mapped import mapped_records
from hbt_dist.data.files import COMPRESSIONS, read_json


def _compressed_too(*endings: str) -> tuple[str, ...]:
    return (*endings, *(ending + packed for ending in endings for packed in COMPRESSIONS))


#: format -> endings of its files.
ENDINGS = {
    "jsonl": _compressed_too(".jsonl", ".ndjson"),
    "csv": _compressed_too(".csv"),
    "tsv": _compressed_too(".tsv"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather"),
}


def open_table(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a file, or all files of a format in a folder and its sub-folders, in the order of their names."""
    _check_ending(source)
    notes = ReadingNotes()
    if source.format == "arrow" and (saved := _saved_files(source)) is not None:
        files, notes.splits_left_out = saved
    else:
        files, notes.files_left_out = table_files(source_path(source), ENDINGS[source.format], source.name)

    def records() -> Iterator[TrainingRecord]:
        rows = chain.from_iterable(file_rows(source.format, file) for file in files)
        if (first := next(rows, None)) is None:
            return iter(())
        rows = chain([first], rows)
        if is_training_format(source, first[1]):
            return training_records(rows, notes)
        return mapped_records(rows, source.columns, languages, notes)

    return SourceReader(
        records=records,
        files=[file.path for file in files],
        identity=json.dumps([file.partition for file in files]) if any(f.partition for f in files) else "",
        notes=notes,
        by_content=True,
    )


def _check_ending(source: SourceSettings) -> None:
    """Refuse a file whose ending names another format."""
    path = source_path(source)
    named = [name for name, endings in ENDINGS.items() if path.name.endswith(endings)]
    if named and source.format not in named and not path.is_dir():
        problem = f"expected a file of format {source.format}, got one of format {named[0]}"
        raise UserError(str(path), problem, f"set format: {named[0]}, or rename the file")


def _saved_files(source: SourceSettings) -> tuple[list[TableFile], list[str]] | None:
    """Return the files of a folder that `datasets` saved, and its splits that are not read."""
    folder = source_path(source)
    left_out: list[str] = []
    if (folder / "dataset_dict.json").is_file():
        splits = _checked(read_json(folder / "dataset_dict.json").get("splits"), folder)
        if source.hub_split not in splits:
            raise UserError(
                str(folder), f"has no split {source.hub_split!r}", f"set hub_split to {', '.join(splits)}"
            )
        left_out = [split for split in splits if split != source.hub_split]
        folder /= source.hub_split
    if not (folder / "state.json").is_file():
        return None
    state = read_json(folder / "state.json")
    if state.get("_indices_data_files"):
        raise UserError(
            str(folder),
            "is a selection of rows in an old form",
            "load and save it once more with datasets",
        )
    names = [item.get("filename") for item in _checked(state.get("_data_files"), folder)]
    return [TableFile(folder / str(name)) for name in names], left_out


def _checked(value: Any, folder: Path) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(str(folder), "not a folder that datasets saved", "save it once more")
    return value


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
        return mapped_records(rows, source.columns, languages, notes)

    return SourceReader(records=records, identity=f"{source.path} {data._fingerprint}", notes=notes)
