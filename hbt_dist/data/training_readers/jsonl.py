"""The package's own training format: JSON Lines (`.jsonl`, or `.jsonl.gz`), one example per line.

    {"id": "q1",
     "question": {"en": "Where is Turku?", "fi": "Missä Turku on?"},
     "passage": {"en": "Turku is in Finland.", "fi": "Turku on Suomessa."},
     "passage_id": "p7",
     "negatives": [{"id": "p9", "text": {"en": "Tartu is in Estonia.", "fi": "Tartu on Virossa."}}]}

`id` (unique in the source), `question` and `passage` are needed. `passage_id` says that examples share a
passage; without it passages with equal texts are one. `negatives` and their `id` may be left out. Texts are
objects of language code -> text; codes are ISO 639-1, or ISO 639-3 where there is none. Further fields are
ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from hbt_dist.data.config import Missing, SourceSettings
from hbt_dist.data.fields import id_field, object_items, texts_field
from hbt_dist.data.files import read_json_lines
from hbt_dist.data.records import NegativeRecord, TrainingRecord
from hbt_dist.data.training_readers.base import SourceReader, source_path
from hbt_dist.errors import UserError


def open_jsonl(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a JSON Lines file, or all `*.jsonl` and `*.jsonl.gz` of a folder in the order of their names."""
    path = source_path(source)
    files = [path]
    if path.is_dir():
        files = sorted([*path.glob("*.jsonl"), *path.glob("*.jsonl.gz")])
        if not files:
            raise UserError(str(path), "holds no .jsonl and no .jsonl.gz file", "name the file itself")
    elif not path.exists():
        raise UserError(str(path), "there is no such file", f"check the path of source {source.name}")
    return SourceReader(records=lambda: _read(files), files=files)


def _read(files: list[Path]) -> Iterator[TrainingRecord]:
    for path in files:
        for place, row in read_json_lines(path):
            yield record_of(row, place)


def record_of(row: Mapping[str, Any], place: str) -> TrainingRecord:
    """The record in one object of the format above."""
    example_id = id_field(row, "id", place)
    passage = texts_field(row, "passage", place)
    passage_id = content_id(passage)
    if row.get("passage_id") is not None:
        passage_id = id_field(row, "passage_id", place)
    negatives = []
    if row.get("negatives") is not None:
        for inner, item in object_items(row, "negatives", place):
            texts = texts_field(item, "text", inner)
            negative_id = id_field(item, "id", inner) if item.get("id") is not None else content_id(texts)
            negatives.append(NegativeRecord(negative_id, texts))
    return TrainingRecord(
        example_id, passage_id, texts_field(row, "question", place), passage, tuple(negatives), place
    )


def content_id(texts: Mapping[str, str]) -> str:
    """An id made of the texts themselves: equal texts, equal id."""
    joined = "\0".join(f"{language}\0{texts[language]}" for language in sorted(texts))
    return "text-" + blake2b(joined.encode(), digest_size=12).hexdigest()
