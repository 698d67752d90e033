"""Keep benchmark texts out of a corpus while it is converted (`data.exclude_overlap_with`).

A record is dropped if its question or its passage matches a text of a benchmark in any language that both
have (`hbt_dist.data.leakage.report`); hard negatives that match are taken out of the records that stay.
What happens to a record depends on it and on the benchmarks alone, not on other records. Benchmarks are
read in all of their languages, also if the run trains and evaluates on few: a text in translation is a leak,
too. Only a BEIR folder that does not name its language is read in the given language.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from hbt_dist.common.files import expanded
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import benchmark_folder, is_folder, load_benchmark
from hbt_dist.data.benchmarks.readers.layouts import is_one_data_set
from hbt_dist.data.benchmarks.registry import BENCHMARKS
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.leakage.index import BATCH, RULES, Kind, OverlapIndex

__all__ = ["BATCH", "OverlapCounts", "OverlapFilter", "identity_of"]

_Key = TypeVar("_Key")

#: Part of the fingerprint of a filtered corpus; raise it when other records would be dropped.
VERSION = 2


def identity_of(benchmark: BenchmarkSettings, digest: Callable[[Path], str]) -> dict[str, Any]:
    """Return what decides the texts of a benchmark: its settings and the content of its files.

    Args:
        digest: SHA-256 of a file.

    Raises:
        UserError: the benchmark or its folder does not exist.
    """
    identity: dict[str, Any] = {"name": benchmark.name, "variant": benchmark.variant, "version": VERSION}
    if benchmark.is_labelled:
        identity["label"] = benchmark.label  # the corpus' counts have it
    entry = BENCHMARKS.get(benchmark.name)
    if entry is None or not entry.needs_files:
        # Without files its content is its identity; an unknown name raises an error.
        loaded = load_benchmark(
            benchmark.name,
            benchmark.data_dir,
            benchmark.variant,
            _languages_needed(benchmark),
            judgements=benchmark.judgements,
        )
        return {**identity, "rules": RULES, "fingerprint": loaded.fingerprint}
    folder = benchmark_folder(benchmark.name, benchmark.data_dir)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    content = hashlib.sha256()
    for path in files:
        content.update(f"{path.relative_to(folder).as_posix()}\0{digest(path)}\0".encode())
    if (languages := _languages_needed(benchmark)) is not None:
        identity["languages"] = languages
    return {**identity, "rules": RULES, "files": content.hexdigest()}


def _load(benchmark: BenchmarkSettings) -> Benchmark:
    languages = _languages_needed(benchmark)
    return load_benchmark(
        benchmark.name, benchmark.data_dir, benchmark.variant, languages, judgements=benchmark.judgements
    )


def _languages_needed(benchmark: BenchmarkSettings) -> tuple[str, ...] | None:
    """Return the languages without which a benchmark cannot be read; None if its files name them."""
    if is_folder(benchmark.name):
        return benchmark.languages
    if benchmark.name != "beir" or benchmark.data_dir is None:
        return None
    return benchmark.languages if is_one_data_set(expanded(benchmark.data_dir)) else None


@dataclass
class OverlapCounts:
    """What was taken out of a source.

    Attributes:
        examples: dropped examples.
        by_benchmark: label -> examples that match it; one may match several.
        negatives: hard negatives taken out of examples that stayed.
    """

    examples: int = 0
    by_benchmark: dict[str, int] = field(default_factory=dict)
    negatives: int = 0


class OverlapFilter:
    """Drops records that repeat a benchmark."""

    def __init__(self, benchmarks: Sequence[BenchmarkSettings]) -> None:
        """
        Raises:
            UserError: a benchmark cannot be read.
        """
        self._index = OverlapIndex(
            [_load(benchmark) for benchmark in benchmarks], [benchmark.label for benchmark in benchmarks]
        )

    def keep(self, records: Sequence[TrainingRecord], counts: OverlapCounts) -> list[TrainingRecord]:
        """Return the records that stay, without the negatives that don't; add to `counts`."""
        texts: list[tuple[int, Kind, dict[str, str]]] = []
        for number, record in enumerate(records):
            texts += [(number, "question", record.question), (number, "passage", record.passage)]
        hits = self._find(texts)
        for benchmark in (benchmark for matched in hits.values() for benchmark in matched):
            label = self._index.labels[benchmark]
            counts.by_benchmark[label] = counts.by_benchmark.get(label, 0) + 1
        counts.examples += len(hits)
        kept = [record for number, record in enumerate(records) if number not in hits]
        leaking = self._find(
            [
                ((number, position), "passage", negative.passage)
                for number, record in enumerate(kept)
                for position, negative in enumerate(record.negatives)
            ]
        )
        counts.negatives += len(leaking)
        for number in {number for number, _ in leaking}:
            negatives = tuple(
                negative
                for position, negative in enumerate(kept[number].negatives)
                if (number, position) not in leaking
            )
            kept[number] = replace(kept[number], negatives=negatives)
        return kept

    def _find(self, texts: Sequence[tuple[_Key, Kind, dict[str, str]]]) -> dict[_Key, set[int]]:
        """Return key -> benchmarks that a text matches; texts are (key, kind, text by language)."""
        hits: dict[_Key, set[int]] = {}
        groups: dict[tuple[str, Kind], list[tuple[_Key, str]]] = {}
        for key, kind, by_language in texts:
            for language, text in by_language.items():
                groups.setdefault((language, kind), []).append((key, text))
        for (language, kind), members in groups.items():
            for match in self._index.find([text for _, text in members], language, kind):
                hits.setdefault(members[match.text][0], set()).add(match.benchmark)
        return hits
