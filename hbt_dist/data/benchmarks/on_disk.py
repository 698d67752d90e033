"""Convert a benchmark whose pool is too large for memory once, and open it from disk.

The converted folder holds candidates and questions as Arrow files, the integer columns as `.npy`, and a
manifest. Its name is the fingerprint of what decides its content: benchmark, variant, languages, and the
content of the files. It is complete or absent, and checked like every benchmark when it is made.
An opened candidate takes about 4 bytes; scoring adds about 30 bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from hbt_dist.common.files import expanded, write_json
from hbt_dist.data.arrow_texts import ID, TEXT, StoredTexts, StoredTextsWriter
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.candidate_pool import CANDIDATES, DiskPool
from hbt_dist.data.benchmarks.judgements import JudgementCounts, Rules
from hbt_dist.data.cache import MANIFEST, built_once, make_cache, read_manifest, remembered_digest

#: Part of every folder's name; raise it when the same files give another benchmark.
VERSION = 3
_QUESTIONS = "questions.arrow"
_COLUMNS = (
    "question_language", "question_cluster", "candidate_language", "relevant_offsets", "relevant", "grades",
    "absent_language", "excluded",
)  # fmt: skip


def stored_benchmark(
    name: str,
    variant: str,
    languages: tuple[str, ...] | None,
    files: Sequence[Path],
    read: Callable[[BenchmarkBuilder], None],
    cache_dir: Path,
    rules: Rules,
) -> Benchmark:
    """Return the converted benchmark; convert it now if it is absent.

    Args:
        files: what decides its content.
        read: fills a builder from them.
        cache_dir: where converted benchmarks are kept.
        rules: for judgements that do not fit the collection.

    Raises:
        UserError: what `read` raises, a benchmark that cannot be scored, or a cache that cannot be written.
    """
    cache_dir = expanded(cache_dir).absolute()  # actors on this machine work in other folders
    make_cache(cache_dir, "cache_dir")
    content = [[path.parent.name, path.name, remembered_digest(path, cache_dir)] for path in files]
    recipe = json.dumps([VERSION, name, variant, languages, asdict(rules), content])
    folder = cache_dir / f"benchmark-{hashlib.sha256(recipe.encode()).hexdigest()[:24]}"

    def build(unfinished: Path) -> None:
        builder = BenchmarkBuilder(name, variant, languages, DiskPool(unfinished, name), rules=rules)
        read(builder)
        _write(builder.build(), unfinished)

    return _open(built_once(folder, build))


def _write(benchmark: Benchmark, folder: Path) -> None:
    with StoredTextsWriter(folder / _QUESTIONS) as writer:
        writer.append(list(benchmark.question_ids), list(benchmark.question_texts))
    for column in _COLUMNS:
        np.save(folder / f"{column}.npy", getattr(benchmark, column))
    manifest = {
        "schema": "hbt_dist.benchmark",
        "schema_version": VERSION,
        "name": benchmark.name,
        "variant": benchmark.variant,
        "languages": benchmark.languages,
        "own_text_relevant": benchmark.question_text_relevant,
        "judgements": benchmark.judgements.plain,
        "absent_ids": list(benchmark.absent_ids),
        "num_questions": benchmark.num_questions,
        "num_candidates": benchmark.num_candidates,
        "fingerprint": benchmark.fingerprint,
    }
    write_json(folder / MANIFEST, manifest)


def _open(folder: Path) -> Benchmark:
    manifest = read_manifest(folder)
    return Benchmark(
        name=manifest["name"],
        variant=manifest["variant"],
        languages=tuple(manifest["languages"]),
        question_ids=list(StoredTexts(folder / _QUESTIONS, ID)),
        question_texts=list(StoredTexts(folder / _QUESTIONS, TEXT)),
        candidate_ids=StoredTexts(folder / CANDIDATES, ID),
        candidate_texts=StoredTexts(folder / CANDIDATES, TEXT),
        question_text_relevant=manifest["own_text_relevant"],
        absent_ids=manifest["absent_ids"],
        judgements=JudgementCounts.of(manifest["judgements"]),
        fingerprint=manifest["fingerprint"],
        **{column: np.load(folder / f"{column}.npy") for column in _COLUMNS},
    )
