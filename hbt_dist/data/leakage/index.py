"""Find leaks: training texts that repeat, or nearly repeat, texts of a benchmark.

A training text and a benchmark text of one language match

    exactly   if they are equal after `normalise`; texts shorter than one shingle (names, "yes") count only
              where both are questions
    nearly    by containment (Broder 1997), the share of the smaller text's shingles that both have:
              at least 0.5 if both texts have 12 words, at least 0.8 if both have 8 (characters in languages
              without spaces: 24 and 16, twice that where shingles are 20 characters long)

Every training text is compared with every benchmark text, through an inverted index and one sparse product
per batch: nothing is sampled or hashed into bands, so no pair above the thresholds is missed. 100,000
passages of 730 characters against 20,500 sentences take 16 s on one CPU core; the index takes about 2 s and
30 MB per 50,000 sentences.

The thresholds are where coincidence ends on public data: of 18,912 English SQuAD passages one, and of
128,999 questions nine, match something in XQuAD-R or MLQA-R, all but two of them by phrases such as "one of
the most populous in the world"; of 5,000 MKQA questions 22 match one of the 1,758 held-out ones, nearly all
in earnest. Not found: translations, paraphrases, and texts in which every fifth word was changed.

A benchmark that is made of templates shares most shingles with all texts of the same templates by design;
for these (`TEMPLATED`) only exact matches count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.arrow_texts import take_texts
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.leakage.shingles import ShingledTexts, Shingler, shingle_units

Kind = Literal["question", "passage"]
Int64 = NDArray[np.int64]

#: (length of both texts in shingle widths, least containment), the longest first.
RULES = ((2.4, 0.5), (1.6, 0.8))
#: Benchmarks made of templates.
TEMPLATED = frozenset({"sample"})

BATCH = 2048
SHOWN_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class Match:
    """A text and the closest text of a benchmark."""

    text: int  # position among the given texts
    benchmark: int  # position among the benchmarks
    kind: Kind  # what the benchmark text is; its candidates are passages
    row: int  # question or candidate row
    containment: float  # 1 for exact ones
    exact: bool


class OverlapIndex:
    """The texts of benchmarks, ready to be compared with."""

    def __init__(self, benchmarks: Sequence[Benchmark], labels: Sequence[str] | None = None) -> None:
        """
        Args:
            benchmarks: their texts in all languages that they have.
            labels: names for reports; by default name and variant.
        """
        self.benchmarks = tuple(benchmarks)
        self.labels = tuple(labels or (benchmark.title for benchmark in benchmarks))
        self.shingler = Shingler()
        self._parts: dict[str, _LanguageIndex] = {}
        for language in sorted({code for benchmark in benchmarks for code in benchmark.languages}):
            self._parts[language] = _LanguageIndex(self.benchmarks, language, self.shingler)

    @property
    def languages(self) -> tuple[str, ...]:
        """Return the languages in which a benchmark has texts."""
        return tuple(self._parts)

    def find(self, texts: Sequence[str], language: str, kind: Kind) -> list[Match]:
        """Return the matches of training texts in a language: of each text the closest in every benchmark.

        Args:
            texts: any number; memory grows with them, `BATCH` at a time is a good size.
            kind: what the training texts are.
        """
        part = self._parts.get(language)
        if part is None or not len(texts):
            return []
        return part.find(self.shingler(texts, language), kind)


class _LanguageIndex:
    """Benchmark texts of one language; each text of a benchmark and kind once, under its first row."""

    def __init__(self, benchmarks: tuple[Benchmark, ...], language: str, shingler: Shingler) -> None:
        self.width = shingle_units(language)
        entries: list[tuple[int, Kind, int]] = []
        parts: list[ShingledTexts] = []
        for number, benchmark in enumerate(benchmarks):
            if language not in benchmark.languages:
                continue
            for kind, texts, of_language in (
                ("question", benchmark.question_texts, benchmark.question_language),
                ("passage", benchmark.candidate_texts, benchmark.candidate_language),
            ):
                rows = np.flatnonzero(np.asarray(of_language) == benchmark.languages.index(language))
                shingled, kept = _distinct(
                    shingler(take_texts(texts, rows), language), with_shingles=benchmark.name not in TEMPLATED
                )
                parts.append(shingled)
                entries += [(number, kind, row) for row in rows[kept].tolist()]  # type: ignore[misc]
        self.entries = entries
        self.is_question = np.array([kind == "question" for _, kind, _ in entries], bool)
        exact = np.concatenate([part.exact for part in parts])
        self.by_exact = np.argsort(exact, kind="stable")
        self.exact = exact[self.by_exact]
        starts = np.cumsum([0, *(len(part.exact) for part in parts)])
        entry = np.concatenate([part.row + start for part, start in zip(parts, starts[:-1], strict=True)])
        self.num_shingles = np.bincount(entry, minlength=len(entries))
        self.shingles, column = np.unique(
            np.concatenate([part.shingle for part in parts]), return_inverse=True
        )
        from scipy.sparse import csr_array

        self.holders = csr_array(
            (np.ones(len(entry), np.int32), (column, entry)), shape=(len(self.shingles), len(entries))
        )

    def find(self, texts: ShingledTexts, kind: Kind) -> list[Match]:
        text, entry, containment, exact = (
            np.concatenate(pair) for pair in zip(self._exact(texts, kind), self._near(texts), strict=True)
        )
        matches: dict[tuple[int, int], Match] = {}
        for i in np.lexsort((entry, -containment, ~exact, text)).tolist():
            number, entry_kind, row = self.entries[entry[i]]
            key = (int(text[i]), number)
            if key not in matches:
                matches[key] = Match(*key, entry_kind, row, float(containment[i]), bool(exact[i]))
        return list(matches.values())

    def _exact(self, texts: ShingledTexts, kind: Kind) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        first = np.searchsorted(self.exact, texts.exact, side="left")
        length = np.searchsorted(self.exact, texts.exact, side="right") - first
        text = np.repeat(np.arange(len(first)), length)
        offset = np.arange(len(text)) - np.repeat(np.cumsum(length) - length, length)
        entry = self.by_exact[np.repeat(first, length) + offset]
        counts = (texts.num_units[text] >= self.width) | (self.is_question[entry] & (kind == "question"))
        text, entry = text[counts], entry[counts]
        return text, entry, np.ones(len(text)), np.ones(len(text), bool)

    def _near(self, texts: ShingledTexts) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        from scipy.sparse import csr_array

        if not len(self.shingles):
            nothing = np.zeros(0, np.int64)
            return nothing, nothing, np.zeros(0), np.zeros(0, bool)
        column = np.minimum(np.searchsorted(self.shingles, texts.shingle), len(self.shingles) - 1)
        hit = self.shingles[column] == texts.shingle
        num_texts = len(texts.exact)
        has = csr_array(
            (np.ones(int(hit.sum()), np.int32), (texts.row[hit], column[hit])),
            shape=(num_texts, len(self.shingles)),
        )
        shared = (has @ self.holders).tocoo()
        text, entry = shared.row.astype(np.int64), shared.col.astype(np.int64)
        num_shingles = np.bincount(texts.row, minlength=num_texts)
        smaller = np.minimum(num_shingles[text], self.num_shingles[entry])
        containment = shared.data / smaller
        near = np.zeros(len(text), bool)
        for widths, least in RULES:
            near |= (smaller >= int(widths * self.width) - self.width + 1) & (containment >= least)
        return text[near], entry[near], containment[near], np.zeros(int(near.sum()), bool)


def _distinct(texts: ShingledTexts, with_shingles: bool) -> tuple[ShingledTexts, Int64]:
    """Return the texts without repetitions, and their positions."""
    _, kept = np.unique(texts.exact, return_index=True)
    kept.sort()
    number = np.full(len(texts.exact), -1, np.int64)
    number[kept] = np.arange(len(kept))
    row = number[texts.row]
    is_kept = (row >= 0) & with_shingles
    return ShingledTexts(texts.exact[kept], texts.num_units[kept], row[is_kept], texts.shingle[is_kept]), kept
