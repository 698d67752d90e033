"""Report the training texts that repeat texts of benchmarks: counts by source, and the closest matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

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
    corpus: Corpus,
    benchmarks: Sequence[Benchmark],
    labels: Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> LeakReport:
    """Compare all questions and passages of a corpus with benchmarks, language by language.

    Args:
        corpus: with texts, that is, made by `build_corpus`.
        benchmarks: in as many languages as possible: a translation of a leaked text is found only where
            the benchmark has that language.
        labels: names of the benchmarks in the report.
        progress: called with the number of texts of each finished batch.
    """
    index = OverlapIndex(benchmarks, labels)
    leaks: list[Leak] = []
    passage_hits: set[tuple[int, int]] = set()  # (row, benchmark)
    question_hits: set[tuple[int, int]] = set()
    for kind, hits in (("passage", passage_hits), ("question", question_hits)):
        for language, first, texts in _batches(corpus, kind, index.languages):  # type: ignore[arg-type]
            rows = [row for row, text in enumerate(texts, start=first) if text is not None]
            present = [text for text in texts if text is not None]
            for match in index.find(present, language, kind):  # type: ignore[arg-type]
                hits.add((rows[match.text], match.benchmark))
                leaks.append(_leak(index, match, kind, rows[match.text], language, present[match.text]))  # type: ignore[arg-type]
            if progress is not None:
                progress(len(present))
    passages = np.unique([row for row, _ in passage_hits]).astype(np.int64)
    by_example = np.zeros((corpus.num_examples, len(index.benchmarks)), bool)
    for number in range(len(index.benchmarks)):
        rows_of = [row for row, benchmark in passage_hits if benchmark == number]
        by_example[:, number] = np.isin(corpus.example_passage, np.array(rows_of, np.int64))
        by_example[[row for row, benchmark in question_hits if benchmark == number], number] = True
    counts = {
        source: {
            label: int(by_example[np.asarray(corpus.example_dataset) == dataset, number].sum())
            for number, label in enumerate(index.labels)
        }
        for dataset, source in enumerate(corpus.datasets)
    }
    return LeakReport(
        leaks=tuple(leaks),
        passages=passages,
        examples=np.flatnonzero(by_example.any(axis=1)),
        counts={
            source: {label: number for label, number in by_label.items() if number}
            for source, by_label in counts.items()
        },
        num_examples=corpus.num_examples,
    )


def _batches(
    corpus: Corpus, kind: Kind, languages: Sequence[str]
) -> Iterator[tuple[str, int, list[str | None]]]:
    """Yield (language, first row, texts) of all texts of a kind in the languages that matter."""
    read, size = (
        (corpus.passage_texts, corpus.num_passages)
        if kind == "passage"
        else (corpus.question_texts, corpus.num_examples)
    )
    for language in languages:
        if language in corpus.languages:
            for first in range(0, size, BATCH):
                yield language, first, read(language, first, min(first + BATCH, size))


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
