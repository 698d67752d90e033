"""Guess the settings of a source from its files: format, columns, and where the languages are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.data.corpus.readers.tables import ENDINGS
from hbt_dist.data.corpus.settings import ColumnSettings
from hbt_dist.data.corpus.tables.column_names import columns_by_language
from hbt_dist.data.corpus.tables.files import file_rows, table_files
from hbt_dist.data.corpus.tables.usual_columns import FORMS, usual_columns
from hbt_dist.data.fields import language_at
from hbt_dist.data.languages import is_language

#: Usual names of a column with the language of each row.
_LANGUAGE_COLUMNS = ("language", "lang", "lang_code", "language_code", "locale")


def guess_source(path: Path, name: str, language: str | None = None) -> dict[str, Any]:
    """Return the block of a source in plain data.

    Args:
        path: of the file or folder, as the run file will name it.
        name: of the source.
        language: of all texts, where neither columns nor rows name it.

    Raises:
        UserError: the files have no known format, or nothing names the languages of the texts.
    """
    source: dict[str, Any] = {"name": name, "format": _format_of(path), "path": str(path)}
    if source["format"] == "arrow" and not _tables(path, "arrow"):
        return source  # a folder that `datasets` saved
    files, _ = table_files(expanded(path), ENDINGS[source["format"]], name)
    row = next((row for file in files for _, row in file_rows(source["format"], file)), None)
    if row is None:
        raise UserError(str(path), "holds no example", "name the file with the training examples")
    if columns := _columns(row, str(path), language):
        source["columns"] = columns
    return source


def _format_of(path: Path) -> str:
    """Return the format that the names of the files have."""
    if not expanded(path).exists():
        raise UserError(str(path), "there is no such file", "give the file with the training examples")
    if any((expanded(path) / mark).is_file() for mark in ("state.json", "dataset_dict.json")):
        return "arrow"
    for name in ENDINGS:
        if path.name.endswith(ENDINGS[name]) or (expanded(path).is_dir() and _tables(path, name)):
            return name
    endings = ", ".join(group[0] for group in ENDINGS.values())
    raise UserError(
        str(path),
        f"expected a file or folder with one of the endings {endings}, got another",
        "rename it, or write data.sources by hand: docs/data.md lists the formats",
    )


def _tables(path: Path, format_name: str) -> bool:
    files = (file.name for file in expanded(path).rglob("*") if file.is_file())
    return any(name.endswith(ENDINGS[format_name]) for name in files)


def _columns(row: dict[str, Any], location: str, language: str | None) -> dict[str, str]:
    """Return the columns that the reader does not find by itself."""
    names = tuple(row)
    by_language = _named_by_language(names, location)
    if by_language is not None:
        return by_language
    usual = usual_columns(ColumnSettings(), names, location)
    if not isinstance(row.get(usual.question), str):
        return {}  # texts by language; or no such column, which the reader reports
    if language is not None:
        return {"language": language_at(language, "--language")}
    for name in _LANGUAGE_COLUMNS:
        if isinstance(row.get(name), str) and is_language(row[name]):
            return {"language_column": name}
    raise UserError(
        location,
        f"expected the language of the texts, got columns {', '.join(names)}",
        "add --language CODE, the language of all lines; or add a column lang to the file",
    )


def _named_by_language(names: Sequence[str], location: str) -> dict[str, str] | None:
    """Return the columns of a form whose texts have one column per language: question_en, question_fi."""
    pairs = [("question", "passage"), *((form.question, form.passage) for form in FORMS)]
    for question, passage in pairs:
        columns = {"question": f"{question}_{{language}}", "passage": f"{passage}_{{language}}"}
        try:
            for pattern in columns.values():
                columns_by_language(pattern, names, None, location)
        except UserError:
            continue
        return columns
    return None
