"""Report the training texts that repeat texts of benchmarks: counts by source, and the closest matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.leakage.index import BATCH, Int64, Kind, Match, OverlapIndex

SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Leak:
    """A training text that matches a benchmark text. Texts are cut at `SHOWN_CHARACTERS`."""

    kind: Kind
    row: int  # example row of a question, passage row of a passage
    language: str
    text: str
    benchmark: str  # its label
    benchmark_kind: Kind
    benchmark_id: str
    benchmark_text: str
    containment: float
    exact: bool


@dataclass(frozen=True)
class LeakReport:
    """The texts of a corpus that match benchmarks.

    Attributes:
        leaks: every match, passages first, by language and row.
        passages: passage rows with a match, ascending.
        examples: example rows whose question or positive passage matches, ascending.
        counts: source -> benchmark -> examples; an example may count for several benchmarks.
        num_examples: of the corpus.
    """

    leaks: tuple[Leak, ...]
    passages: Int64
    examples: Int64
    counts: dict[str, dict[str, int]]
    num_examples: int

    def text(self, shown: int = 3) -> str:
        """Return a few lines: counts, and the closest matches of each benchmark."""
        if not self.leaks:
            return f"no training text of {self.num_examples:,} examples matches a benchmark"
        lines = [
            f"{len(self.examples):,} of {self.num_examples:,} examples repeat a benchmark "
            f"({len(self.passages):,} passages)"
        ]
        for source, counts in self.counts.items():
            lines += [f"  {source}: {number:,} like {label}" for label, number in counts.items()]
        for label in dict.fromkeys(leak.benchmark for leak in self.leaks):
            of_label = [leak for leak in self.leaks if leak.benchmark == label]
            for leak in sorted(of_label, key=lambda leak: (not leak.exact, -leak.containment))[:shown]:
                how = "same text" if leak.exact else f"{leak.containment:.0%} shared"
                lines.append(f"  {leak.kind} in {leak.language}, {how}: {leak.text!r}")
                lines.append(
                    f"    {label}, {leak.benchmark_kind} {leak.benchmark_id}: {leak.benchmark_text!r}"
                )
        return "\n".join(lines)


def find_leaks(
    corpus: Corpus, benchmarks: Sequence[Benchmark], labels: Sequence[str] | None = None
) -> LeakReport:
    """Compare all questions and passages of a corpus with benchmarks, language by language.

    Args:
        benchmarks: in as many languages as possible: a translation of a leaked text is found only where
            the benchmark has that language.
        labels: names of the benchmarks in the report.
    """
    index = OverlapIndex(benchmarks, labels)
    languages = [language for language in index.languages if language in corpus.languages]
    leaks: list[Leak] = []
    passages = np.zeros((corpus.num_passages, len(index.benchmarks)), bool)
    examples = np.zeros((corpus.num_examples, len(index.benchmarks)), bool)  # by their questions
    kinds: tuple[tuple[Kind, Any, NDArray[np.bool_]], ...] = (
        ("passage", corpus.passage_texts, passages),
        ("question", corpus.question_texts, examples),
    )
    for kind, read, hits in kinds:
        for language, first in product(languages, range(0, len(hits), BATCH)):
            texts = read(language, first, min(first + BATCH, len(hits)))
            present = [(row, text) for row, text in enumerate(texts, start=first) if text is not None]
            for match in index.find([text for _, text in present], language, kind):
                row, text = present[match.text]
                hits[row, match.benchmark] = True
                leaks.append(_leak(index, match, kind, row, language, text))
    examples |= passages[corpus.example_passage]
    counts = {}
    for dataset, source in enumerate(corpus.datasets):
        numbers = examples[np.asarray(corpus.example_dataset) == dataset].sum(axis=0).tolist()
        counts[source] = {label: n for label, n in zip(index.labels, numbers, strict=True) if n}
    return LeakReport(
        leaks=tuple(leaks),
        passages=np.flatnonzero(passages.any(axis=1)),
        examples=np.flatnonzero(examples.any(axis=1)),
        counts=counts,
        num_examples=corpus.num_examples,
    )


def _leak(index: OverlapIndex, match: Match, kind: Kind, row: int, language: str, text: str) -> Leak:
    benchmark = index.benchmarks[match.benchmark]
    ids, texts = (
        (benchmark.question_ids, benchmark.question_texts)
        if match.kind == "question"
        else (benchmark.candidate_ids, benchmark.candidate_texts)
    )
    return Leak(
        kind,
        row,
        language,
        text[:SHOWN_CHARACTERS],
        index.labels[match.benchmark],
        match.kind,
        ids[match.row],
        texts[match.row][:SHOWN_CHARACTERS],
        match.containment,
        match.exact,
    )
