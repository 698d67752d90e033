"""A benchmark with a pool too large for memory: converted once, opened in the memory of its questions.

The converted folder holds candidates and questions as Arrow files, the integer columns as `.npy`, and a
manifest. Its name is the fingerprint of what decides its content: benchmark, variant, languages, and the
content of the files. It is there completely or not at all, and checked like every benchmark when it is made.
Opened, a candidate costs about 4 bytes; scoring adds about 30 bytes (plan.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hbt_dist.data.arrow_texts import ID, TEXT, StoredTexts, StoredTextsWriter
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.candidate_pool import CANDIDATES, DiskPool
from hbt_dist.data.cache import MANIFEST, built_once, make_cache, remembered_digest

#: Part of every folder's name; raise it when the same files give another benchmark.
VERSION = 2
_QUESTIONS = "questions.arrow"
_COLUMNS = (
    "question_language", "question_cluster", "candidate_language", "relevant_offsets", "relevant", "grades",
)  # fmt: skip


def stored_benchmark(
    name: str,
    variant: str,
    languages: tuple[str, ...] | None,
    files: Sequence[Path],
    read: Callable[[BenchmarkBuilder], None],
    cache_dir: Path,
) -> Benchmark:
    """The converted benchmark, made now if it isn't there yet.

    Args:
        files: what decides its content.
        read: fills a builder from them.
        cache_dir: where converted benchmarks are kept.

    Raises:
        UserError: what `read` raises, a benchmark that cannot be scored, or a cache that cannot be written.
    """
    cache_dir = cache_dir.expanduser().absolute()  # actors on this machine work in other folders
    make_cache(cache_dir, "cache_dir")
    content = [[path.parent.name, path.name, remembered_digest(path, cache_dir)] for path in files]
    recipe = json.dumps([VERSION, name, variant, languages, content])
    folder = cache_dir / f"benchmark-{hashlib.sha256(recipe.encode()).hexdigest()[:24]}"

    def build(building: Path) -> None:
        building.mkdir()
        builder = BenchmarkBuilder(name, variant, languages, DiskPool(building, name))
        read(builder)
        _write(builder.build(), building)

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
        "own_text_relevant": benchmark.own_text_relevant,
        "num_questions": benchmark.num_questions,
        "num_candidates": benchmark.num_candidates,
        "fingerprint": benchmark.fingerprint,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _open(folder: Path) -> Benchmark:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return Benchmark(
        name=manifest["name"],
        variant=manifest["variant"],
        languages=tuple(manifest["languages"]),
        question_ids=list(StoredTexts(folder / _QUESTIONS, ID)),
        question_texts=list(StoredTexts(folder / _QUESTIONS, TEXT)),
        candidate_ids=StoredTexts(folder / CANDIDATES, ID),
        candidate_texts=StoredTexts(folder / CANDIDATES, TEXT),
        own_text_relevant=manifest["own_text_relevant"],
        fingerprint=manifest["fingerprint"],
        **{column: np.load(folder / f"{column}.npy") for column in _COLUMNS},
    )
