"""Convert sources to a corpus folder: read once, write Arrow texts and integer columns, rename when complete.

Costs one pass over the sources. Texts go straight to disk; columns and hashes of texts go through temporary
files. Memory of the builder: 0.24 GB at 2 million examples, 0.3 GB at 5 million
(benchmarks/data/conversion.py).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.addresses import is_address
from hbt_dist.common.console import Progress, counted
from hbt_dist.common.errors import UserError, expected
from hbt_dist.common.files import write_json
from hbt_dist.config.settings import plain_copy, validate
from hbt_dist.data.cache import MANIFEST, built_once, make_cache, remembered_digest
from hbt_dist.data.corpus.builder import CorpusBuilder
from hbt_dist.data.corpus.corpus import COLUMNS, OPTIONAL_COLUMNS, Corpus
from hbt_dist.data.corpus.duplicate_groups import equal_pairs, hash64
from hbt_dist.data.corpus.in_memory import with_stored_rows
from hbt_dist.data.corpus.readers import SourceReader, open_source
from hbt_dist.data.corpus.readers.jsonl import pool_records
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import (
    RAGGED,
    SCORE_COLUMNS,
    ColumnSettings,
    DataSettings,
    SourceSettings,
)
from hbt_dist.data.files import read_json_lines
from hbt_dist.data.leakage.filter import BATCH, OverlapCounts, OverlapFilter, identity_of
from hbt_dist.data.remote import local_copy

#: Name of a pool's passages, where sources have theirs.
POOL = "pool"
#: Part of every fingerprint; raise it when the same sources give another corpus.
VERSION = 3


def build_corpus(
    settings: DataSettings | Mapping[str, Any], cache_dir: Path | None = None, *, pool: Path | None = None
) -> Corpus:
    """Return the corpus of these sources: open it if it was converted before, otherwise convert it now.

    Safe when many processes call it at once: one process converts, the rest wait and open. An interrupted
    conversion leaves nothing that could be mistaken for a corpus.

    Args:
        settings: the block `data` of a run (``run.data``), or a dict with its keys, whose sources may hold
            their rows, see `hbt_dist.run_file.load_run`.
        cache_dir: folder of converted corpora; by default `settings.cache_dir`.
        pool: JSON lines of further passages, behind those of the sources, see `pool_records`.

    Raises:
        UserError: a source is missing or holds a mistake; the message names file, line and remedy.
    """
    if isinstance(settings, Mapping):
        plain = with_stored_rows(plain_copy(settings), "sources")
        settings = validate(DataSettings, plain, "data")
    elif not isinstance(settings, DataSettings):
        raise expected("data", "the block data of a run, or a dict", settings, "build_corpus(run.data)")
    cache_dir = Path(settings.cache_dir if cache_dir is None else cache_dir)
    make_cache(cache_dir, "data.cache_dir")
    readers = [
        open_source(_local(source, cache_dir), settings.languages_of(source), settings.missing_of(source))
        for source in settings.sources
    ]
    identities = [
        _identity(settings, source, reader, cache_dir)
        for source, reader in zip(settings.sources, readers, strict=True)
    ]
    recipe: dict[str, Any] = {"version": VERSION, "languages": settings.languages, "sources": identities}
    if settings.exclude_overlap_with:
        recipe["excluded"] = [
            identity_of(benchmark, lambda path: remembered_digest(path, cache_dir))
            for benchmark in settings.exclude_overlap_with
        ]
    if pool is not None:
        recipe["pool"] = remembered_digest(pool, cache_dir, unpacked=True)
    fingerprint = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder = built_once(
        cache_dir / f"corpus-{fingerprint[:24]}",
        lambda folder: _build(settings, readers, folder, {"fingerprint": fingerprint, **recipe}, pool),
    )
    return Corpus.open(folder)


def _local(source: SourceSettings, cache_dir: Path) -> SourceSettings:
    """Return the source with a local path; the files of an address are copied now."""
    if source.path is None or source.format == "hub" or not is_address(source.path):
        return source
    return source.model_copy(update={"path": str(local_copy(source.path, cache_dir, source.name))})


def _identity(
    settings: DataSettings, source: SourceSettings, reader: SourceReader, cache_dir: Path
) -> dict[str, Any]:
    """Return what decides a source's rows: its settings without paths, and the content of its files."""
    chosen = source.model_dump(mode="json", exclude={"path", "languages", "missing"})
    if not source.options:  # keeps the fingerprint of sources without options
        del chosen["options"]
    for setting in SCORE_COLUMNS:  # likewise
        if getattr(source.columns, setting) == ColumnSettings.model_fields[setting].default:
            del chosen["columns"][setting]
    return {
        **chosen,
        "languages": settings.languages_of(source),
        "missing": settings.missing_of(source),
        "identity": reader.identity,
        "files": [_file_identity(path, reader, cache_dir) for path in reader.files],
    }


def _file_identity(path: Path, reader: SourceReader, cache_dir: Path) -> list[str]:
    """Return name and digest of a file; the unpacked content alone where names decide nothing."""
    if reader.by_content:
        return [remembered_digest(path, cache_dir, unpacked=True)]
    return [path.name, remembered_digest(path, cache_dir)]


def _build(
    settings: DataSettings,
    readers: Sequence[SourceReader],
    folder: Path,
    manifest: dict[str, Any],
    pool: Path | None,
) -> None:
    statistics = []
    _keep_unread_splits(settings.sources, readers)
    excluded = OverlapFilter(settings.exclude_overlap_with) if settings.exclude_overlap_with else None
    with CorpusBuilder(folder) as builder:
        for index, (source, reader) in enumerate(zip(settings.sources, readers, strict=True)):
            statistics.append(_add_source(builder, index, settings, source, reader, excluded))
        if builder.num_examples == 0:
            raise UserError(
                "data.sources", "they give no example at all", "check languages, split, missing and the files"
            )
        first_of_pool = builder.num_passages
        if pool is not None:
            statistics.append(_add_pool(builder, settings, pool, excluded))
        absent = [code for code in settings.languages or () if code not in builder.languages]
        if absent:
            raise UserError(
                "data.languages",
                f"no source has any text in {', '.join(map(repr, absent))}",
                f"the sources have {', '.join(sorted(builder.languages))}; drop the language or add a source",
            )
        languages = settings.languages or tuple(sorted(builder.languages))
        columns, tables = builder.finish(languages)
        kinds = COLUMNS | OPTIONAL_COLUMNS
        for name, column in columns.items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(column, dtype=kinds.get(name, np.int32)))
    optional = [name for name in columns if name in OPTIONAL_COLUMNS]
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table)
    manifest = {
        **manifest,
        "languages": languages,
        "datasets": [source.name for source in settings.sources],
        "files": [[path.name for path in reader.files] for reader in readers],
        "alignment": [reader.alignment for reader in readers],
        "prefixes": builder.prefixes,
        **({} if pool is None else {"first_of_pool": first_of_pool}),
        "num_examples": len(columns["example_passage"]),
        "num_passages": len(columns["passage_group"]),
        "statistics": statistics,
        "optional_columns": optional,
    }
    write_json(folder / MANIFEST, manifest)


def _keep_unread_splits(sources: Sequence[SourceSettings], readers: Sequence[SourceReader]) -> None:
    """Leave each split that no source reads in the notes of the first source of its folder alone."""
    noted = {(source.path, source.hub_split) for source in sources}
    for source, reader in zip(sources, readers, strict=True):
        unread = [name for name in reader.notes.splits_left_out if (source.path, name) not in noted]
        reader.notes.splits_left_out[:] = unread
        noted |= {(source.path, name) for name in unread}


def _add_source(
    builder: CorpusBuilder,
    index: int,
    settings: DataSettings,
    source: SourceSettings,
    reader: SourceReader,
    excluded: OverlapFilter | None,
) -> dict[str, Any]:
    """Add all examples of a source; return its statistics for the manifest."""
    languages, refuse = settings.languages_of(source), settings.missing_of(source) == "refuse"
    builder.start_source(index, source, languages, refuse=refuse)
    id_hashes, overlap = array("Q"), OverlapCounts()
    with Progress(None, f"converting {source.name}", "example") as progress:
        records = _records(source, reader)
        while batch := list(islice(records, 1 if excluded is None else BATCH)):
            id_hashes.extend(hash64(record.example_id) for record in batch)
            for record in batch if excluded is None else excluded.keep(batch, overlap):
                builder.add(record)
            progress.update(len(batch))
        if excluded is not None:
            progress.say(_overlap_text(source.name, overlap))
    _refuse_repeated_ids(source, reader, np.frombuffer(id_hashes, np.uint64))
    kept = builder.end_source()
    if overlap.examples and not kept.num_examples:
        raise UserError(
            f"source {source.name}",
            "every example repeats a text of a benchmark",
            f"{_overlap_text(source.name, overlap)}; train on another part (split)",
        )
    if source.languages is not None and source.format not in RAGGED:
        absent = [code for code in source.languages if code not in kept.languages]
        if absent:
            raise UserError(
                f"source {source.name}",
                f"has no text in {', '.join(map(repr, absent))}",
                f"it has {', '.join(kept.languages) or 'none of the requested languages'}",
            )
    return {
        "name": source.name,
        "examples": kept.num_examples,
        "dropped": len(id_hashes) - kept.num_examples - overlap.examples,
        "languages": kept.languages,
        **reader.notes.recorded(),
        **({"repeating_negatives": kept.repeating_negatives} if kept.repeating_negatives else {}),
        **({} if excluded is None else {"overlap": asdict(overlap)}),
    }


def _add_pool(
    builder: CorpusBuilder, settings: DataSettings, pool: Path, excluded: OverlapFilter | None
) -> dict[str, Any]:
    """Add the passages of a pool, in the languages of the corpus; return its statistics for the manifest."""
    prefixes = {source.passage_prefix for source in settings.sources}
    prefix = prefixes.pop() if len(prefixes) == 1 else None
    source = SourceSettings(name=POOL, format="jsonl", path=str(pool), passage_prefix=prefix)
    languages = settings.languages or tuple(sorted(builder.languages))
    builder.start_source(len(settings.sources), source, languages, refuse=False)
    overlap, read, kept = OverlapCounts(), 0, 0
    records = pool_records(read_json_lines(pool))
    with Progress(None, "converting the pool", "passage") as progress:
        while batch := list(islice(records, BATCH)):
            read += len(batch)
            for record in batch if excluded is None else excluded.keep(batch, overlap):
                kept += builder.add_passage(record)
            progress.update(len(batch))
    return {"name": POOL, "passages": kept, "passages_left_out": read - kept}


def overlap_text(corpus: Corpus) -> str:
    """Report what each source lost because it repeats a benchmark, in a line each; "" without a filter."""
    return "\n".join(
        _overlap_text(source["name"], OverlapCounts(**source["overlap"]))
        for source in corpus.manifest.get("statistics", [])
        if "overlap" in source
    )


def _overlap_text(source: str, overlap: OverlapCounts) -> str:
    negatives = f", and {counted(overlap.negatives, 'hard negative')}" if overlap.negatives else ""
    parts = ", ".join(f"{number:,} like {label}" for label, number in overlap.by_benchmark.items())
    how = f" ({parts})" if parts else ""
    repeat = "repeats" if overlap.examples == 1 else "repeat"
    examples = counted(overlap.examples, "example")
    return f"{source}: dropped {examples} that {repeat} a benchmark{how}{negatives}"


def _records(source: SourceSettings, reader: SourceReader) -> Iterator[TrainingRecord]:
    return islice(reader.records(), source.limit)


def _refuse_repeated_ids(source: SourceSettings, reader: SourceReader, hashes: NDArray[np.uint64]) -> None:
    """Raise if an example id comes twice. Equal hashes are looked up in the source itself."""
    suspects = set(equal_pairs(np.arange(len(hashes)), hashes).ravel().tolist())
    seen: dict[str, str] = {}
    for number, record in enumerate(_records(source, reader)) if suspects else ():
        if number not in suspects:
            continue
        if record.example_id in seen:
            raise UserError(
                record.location,
                f"example id {record.example_id!r} was used before, at {seen[record.example_id]}",
                "ids must be unique in a source",
            )
        seen[record.example_id] = record.location
