"""From sources to a corpus folder: read once, write Arrow texts and integer columns, rename when whole.

Costs one pass over the sources. Memory grows by about 150 bytes per distinct passage (a table from id to
row) and 30 bytes per example; texts go straight to disk, hashes of texts through temporary files.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError
from hbt_dist.data.cache import MANIFEST, built_once, make_cache, remembered_digest
from hbt_dist.data.corpus.builder import CorpusBuilder
from hbt_dist.data.corpus.corpus import COLUMNS, Corpus
from hbt_dist.data.corpus.readers import SourceReader, open_source
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import RAGGED, DataSettings, SourceSettings
from hbt_dist.data.leakage.filter import BATCH, OverlapCounts, OverlapFilter, identity_of

#: Part of every fingerprint; raise it when the same sources give another corpus.
VERSION = 1


def build_corpus(settings: DataSettings, cache_dir: Path | None = None) -> Corpus:
    """The corpus of these sources: opened if it was converted before, otherwise converted now.

    Safe when many processes call it at once: one converts, the others wait and open. A conversion that is
    interrupted leaves nothing that could be taken for a corpus.

    Args:
        cache_dir: where converted corpora lie; by default `settings.cache_dir`.

    Raises:
        UserError: a source is missing or holds a mistake; the message names file, line and remedy.
    """
    return Corpus.open(convert(settings, Path(settings.cache_dir) if cache_dir is None else Path(cache_dir)))


def convert(settings: DataSettings, cache_dir: Path) -> Path:
    """The folder of the converted corpus, made now if it isn't there yet."""
    readers = [
        open_source(source, settings.languages_of(source), settings.missing_of(source))
        for source in settings.sources
    ]
    make_cache(cache_dir, "data.cache_dir")
    identities = [
        _identity(settings, *pair, cache_dir) for pair in zip(settings.sources, readers, strict=True)
    ]
    recipe: dict[str, Any] = {"version": VERSION, "languages": settings.languages, "sources": identities}
    if settings.exclude_overlap_with:
        recipe["excluded"] = [
            identity_of(benchmark, lambda path: remembered_digest(path, cache_dir))
            for benchmark in settings.exclude_overlap_with
        ]
    fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return built_once(
        cache_dir / f"corpus-{fingerprint[:24]}",
        lambda folder: _build(settings, readers, folder, {"fingerprint": fingerprint, **recipe}),
    )


def _identity(
    settings: DataSettings, source: SourceSettings, reader: SourceReader, cache_dir: Path
) -> dict[str, Any]:
    """What decides a source's rows: its settings without paths, and the content of its files."""
    chosen = source.model_dump(mode="json", exclude={"path", "languages", "missing"})
    if not source.options:  # younger than the corpora that have none
        del chosen["options"]
    if source.columns.passage_language is None:
        del chosen["columns"]["passage_language"]
    return {
        **chosen,
        "languages": settings.languages_of(source),
        "missing": settings.missing_of(source),
        "identity": reader.identity,
        "files": [[path.name, remembered_digest(path, cache_dir)] for path in reader.files],
    }


def _build(
    settings: DataSettings, readers: Sequence[SourceReader], folder: Path, manifest: dict[str, Any]
) -> None:
    folder.mkdir(parents=True)
    statistics = []
    excluded = OverlapFilter(settings.exclude_overlap_with) if settings.exclude_overlap_with else None
    with CorpusBuilder(folder) as builder:
        for index, (source, reader) in enumerate(zip(settings.sources, readers, strict=True)):
            statistics.append(_add_source(builder, index, settings, source, reader, excluded))
        if builder.num_examples == 0:
            raise UserError(
                "data.sources", "they give no example at all", "check languages, split, missing and the files"
            )
        found = set(builder.languages)
        absent = [code for code in settings.languages or () if code not in found]
        if absent:
            raise UserError(
                "data.languages",
                f"no source has any text in {', '.join(map(repr, absent))}",
                f"the sources have {', '.join(sorted(found))}; drop the language or add a source",
            )
        languages = settings.languages or tuple(sorted(found))
        columns, tables = builder.finish(languages)
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(column, dtype=COLUMNS[name]))
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table)
    manifest = {
        **manifest,
        "languages": languages,
        "datasets": [source.name for source in settings.sources],
        "alignment": [reader.alignment for reader in readers],
        "num_examples": len(columns["example_passage"]),
        "num_passages": len(columns["passage_group"]),
        "statistics": statistics,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _add_source(
    builder: CorpusBuilder,
    index: int,
    settings: DataSettings,
    source: SourceSettings,
    reader: SourceReader,
    excluded: OverlapFilter | None,
) -> dict[str, Any]:
    """Add all examples of a source; returns what to say about it in the manifest."""
    languages, refuse = settings.languages_of(source), settings.missing_of(source) == "refuse"
    builder.start_source(index, source.name, languages, refuse=refuse)
    id_hashes, overlap = array("Q"), OverlapCounts()
    with Progress(None, f"converting {source.name}", "example") as progress:
        records = _records(source, reader)
        while batch := list(islice(records, 1 if excluded is None else BATCH)):
            id_hashes.extend(_hash(record.example_id) for record in batch)
            for record in batch if excluded is None else excluded.keep(batch, overlap):
                builder.add(record)
            progress.update(len(batch))
        if excluded is not None:
            progress.say(_overlap_text(source.name, overlap))
    _refuse_repeated_ids(source, reader, np.array(id_hashes, np.uint64))
    found = builder.end_source()
    if overlap.examples and not found.num_examples:
        raise UserError(
            f"source {source.name}",
            "every example repeats a text of a benchmark",
            f"{_overlap_text(source.name, overlap)}; train on another part (split)",
        )
    if source.languages is not None and source.format not in RAGGED:
        absent = [code for code in source.languages if code not in found.languages]
        if absent:
            raise UserError(
                f"source {source.name}",
                f"has no text in {', '.join(map(repr, absent))}",
                f"it has {', '.join(found.languages) or 'none of the languages asked for'}",
            )
    return {
        "name": source.name,
        "examples": found.num_examples,
        "dropped": len(id_hashes) - found.num_examples - overlap.examples,
        "languages": found.languages,
        **({"repeating_negatives": found.repeating_negatives} if found.repeating_negatives else {}),
        **({} if excluded is None else {"overlap": asdict(overlap)}),
    }


def negatives_text(corpus: Corpus) -> str:
    """How many hard negatives of each source were left out as the passage itself, in a line each."""
    return "\n".join(
        f"{one['name']}: left out {one['repeating_negatives']:,} hard negatives that are the passage itself"
        for one in corpus.manifest.get("statistics", [])
        if one.get("repeating_negatives")
    )


def overlap_text(corpus: Corpus) -> str:
    """What was dropped from each source because it repeats a benchmark, in a line each; "" if not asked."""
    return "\n".join(
        _overlap_text(one["name"], OverlapCounts(**one["overlap"]))
        for one in corpus.manifest.get("statistics", [])
        if "overlap" in one
    )


def _overlap_text(source: str, overlap: OverlapCounts) -> str:
    negatives = f", and {overlap.negatives:,} hard negatives" if overlap.negatives else ""
    parts = ", ".join(f"{number:,} like {label}" for label, number in overlap.by_benchmark.items())
    how = f" ({parts})" if parts else ""
    return f"{source}: dropped {overlap.examples:,} examples that repeat a benchmark{how}{negatives}"


def _records(source: SourceSettings, reader: SourceReader) -> Iterator[TrainingRecord]:
    return islice(reader.records(), source.limit)


def _refuse_repeated_ids(source: SourceSettings, reader: SourceReader, hashes: NDArray[np.uint64]) -> None:
    """Raise if an example id comes twice. Equal hashes are looked up in the source itself."""
    order = np.argsort(hashes, kind="stable")
    again = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    if not len(again):
        return
    suspects = set(order[again].tolist()) | set(order[again + 1].tolist())
    seen: dict[str, str] = {}
    for number, record in enumerate(_records(source, reader)):
        if number not in suspects:
            continue
        if record.example_id in seen:
            raise UserError(
                record.place,
                f"example id {record.example_id!r} was used before, at {seen[record.example_id]}",
                "ids must be unique in a source",
            )
        seen[record.example_id] = record.place


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
