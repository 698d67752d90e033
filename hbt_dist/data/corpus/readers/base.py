"""Define a training reader: the files it depends on, and a function that yields its records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.files import existing_folder


@dataclass
class ReadingNotes:
    """What a reader chose or left unused; complete when its records have been read.

    Attributes:
        columns: role -> column, where usual names chose it.
        splits_left_out: splits of a saved DatasetDict that the source does not name.
        files_left_out: names of files in the source's folder that the reader did not read.
        unused: columns that give nothing to the records.
        doubtful: column -> language of those whose suffix could be a language, but is probably none.
    """

    columns: dict[str, str] = field(default_factory=dict)
    splits_left_out: list[str] = field(default_factory=list)
    files_left_out: list[str] = field(default_factory=list)
    unused: dict[str, None] = field(default_factory=dict)
    doubtful: dict[str, str] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """Return what is not empty, for a manifest."""
        content: dict[str, Any] = {"columns": self.columns, "files_left_out": self.files_left_out}
        content |= {"splits_left_out": self.splits_left_out}
        content |= {"unused": list(self.unused), "doubtful": dict(self.doubtful)}
        return {key: value for key, value in content.items() if value}


@dataclass(frozen=True)
class SourceReader:
    """An opened source; nothing is read before `records` is called.

    Attributes:
        records: yields the records in a fixed order, from the first at every call.
        files: all files that decide the records.
        identity: what else decides them, such as the version of generated data.
        alignment: whether question and passage are the same text in the same language.
        notes: what the reader chose or left unused; `records` fills them.
        by_content: whether the names of the files decide nothing, so that a renamed file is the same.
    """

    records: Callable[[], Iterator[TrainingRecord]]
    files: list[Path] = field(default_factory=list)
    identity: str = ""
    alignment: bool = False
    notes: ReadingNotes = field(default_factory=ReadingNotes)
    by_content: bool = False


Opener = Callable[[SourceSettings, "tuple[str, ...] | None", Missing], SourceReader]


def source_path(source: SourceSettings) -> Path:
    """Return the path of a source that has one, with `~` for the home folder."""
    return expanded(source.path or "")


def source_folder(source: SourceSettings) -> Path:
    """Return the folder of a source, which must exist."""
    return existing_folder(
        source_path(source), f"source {source.name} of format {source.format} reads a folder"
    )


def chosen_languages(
    available: dict[str, Path], languages: tuple[str, ...] | None, missing: Missing, location: Path
) -> dict[str, Path]:
    """Return language -> file of the requested languages, or of all.

    Raises:
        UserError: a language is absent and `missing` is "refuse", or all are absent.
    """
    if languages is None:
        return available
    absent = [language for language in languages if language not in available]
    if absent and (missing == "refuse" or len(absent) == len(languages)):
        raise UserError(
            str(location),
            f"has no {', '.join(map(repr, absent))}",
            f"it has {', '.join(sorted(available))}; name the languages of this source, or set missing: skip",
        )
    return {language: available[language] for language in languages if language in available}


def content_id(texts: Mapping[str, str]) -> str:
    """Return an id made of the texts: equal texts, equal id."""
    return "text-" + blake2b(content_key(texts).encode(), digest_size=12).hexdigest()


def content_key(texts: Mapping[str, str]) -> str:
    """Return a string that only equal texts share; lengths keep a NUL inside a text apart from the marks."""
    return "".join(f"{code}\0{len(texts[code])}\0{texts[code]}" for code in sorted(texts))
