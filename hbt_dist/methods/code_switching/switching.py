"""Replace words of planned rows by translations: a pure function of (seed, step, global row, role).

A batch is switched in the same way for every number of processes: the draws for one word depend on the run's
seed, the step, the row's number in the *global* batch, the role, and the position of the word in its text.
Cost: 256 rows of the embedded sample, 11 words per question and 18 per passage with every text changed, take
about 15 ms, and the tokenizer 45 ms on one core, which it divides among the cores it can use.

Letters: n texts, W words of all of them together.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s, below, derive_key, uniform
from hbt_dist.batching.kinds import KINDS, all_kinds
from hbt_dist.batching.plan import BatchPlan, ChangedTexts, GlobalBatch
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.methods.code_switching.dictionaries import Lexicon, Translations, load_lexicon
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings
from hbt_dist.methods.code_switching.words import split_words, with_case_of

_SLOT_BITS, _WORD_BITS = 12, 20  # hard negatives of a row, words of a text


@dataclass(frozen=True)
class SwitchCounts:
    """Counts over the texts that code-switching chooses; texts without a dictionary do not count."""

    texts: int = 0
    words: int = 0  # of these texts
    known: int = 0  # words that their dictionary has
    switched: int = 0  # words that were replaced

    @property
    def ratio(self) -> float:
        """Share of the replaced words; below the probability, because words without translation stay."""
        return self.switched / self.words if self.words else 0.0

    def __add__(self, counts: SwitchCounts) -> SwitchCounts:
        return SwitchCounts(*map(sum, zip(astuple(self), astuple(counts), strict=True)))


@dataclass(frozen=True)
class CodeSwitching:
    """Code-switching of one run.

    Attributes:
        settings: the block of the run file.
        lexicon: its dictionaries.
        languages: of the corpus, by index.
        seed: of the run.
    """

    settings: CodeSwitchingSettings
    lexicon: Lexicon
    languages: tuple[str, ...]
    seed: int
    kinds: tuple[str, ...] = KINDS

    @cached_property
    def _tables(self) -> list[list[Translations]]:
        """The dictionaries by index of the source language, then of the target among those of the source."""
        pairs = self.lexicon.pairs
        return [[pairs[code][target] for target in sorted(pairs.get(code, ()))] for code in self.languages]

    @property
    def state(self) -> dict[str, Any]:
        """Everything that decides the switched texts, as plain data."""
        return {**self.settings.decisive(), "dictionaries": self.lexicon.fingerprint}

    def probability(self, role: Role) -> float:
        """Return the probability that a known word of a role is replaced."""
        settings = self.settings
        return settings.question_probability if role == "question" else settings.passage_probability

    def change(self, role: Role, corpus: Corpus, batch: GlobalBatch, first_row: int = 0) -> ChangedTexts:
        """Return the texts of a slice of a global batch in which a word is replaced (RowTransform)."""
        size, negatives = batch.negative.shape
        row = np.arange(size)
        slot = np.zeros(size, np.int64)
        read, source, language = corpus.question_text, batch.example, batch.question_language
        if role == "passage":
            row = np.concatenate([row, np.repeat(row, negatives)])
            slot = np.concatenate([slot, np.tile(np.arange(1, negatives + 1), size)])
            positive = np.asarray(corpus.example_passage)[batch.example]
            read, source = corpus.passage_text, np.concatenate([positive, batch.negative.ravel()])
            language = np.concatenate([batch.passage_language, batch.negative_language.ravel()])
        kind, row = batch.kind_of_row[row], first_row + row
        index = np.flatnonzero(self.chosen(batch.step, row, kind, language))
        language = language[index]
        plain = [read(*text) for text in zip(source[index].tolist(), language.tolist(), strict=True)]
        switched, counts = self.switch(role, batch.step, row[index], slot[index], language, plain)
        changed = [number for number, text in enumerate(switched) if text is not None]
        return ChangedTexts(index[changed], [text for text in switched if text is not None], counts)

    def chosen(
        self, step: int, row: Int64s, kind: NDArray[np.integer], language: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Return the texts in which words can be replaced: their row is drawn and of a kind that is switched,
        and their language has a dictionary.

        Args:
            row: (n,) number of the text's row in the global batch.
            kind: (n,) index of the row's kind in `kinds`.
            language: (n,) index of the text's language.
        """
        has_table = np.array([bool(tables) for tables in self._tables])
        of_kind = np.array(
            [self.settings.kinds is None or name in self.settings.kinds for name in self.kinds]
        )
        drawn = uniform(derive_key("switched row", self.seed, step), row) < self.settings.row_probability
        return drawn & of_kind[kind] & has_table[language]

    def switch(
        self,
        role: Role,
        step: int,
        row: Int64s,
        slot: Int64s,
        language: NDArray[np.integer],
        texts: list[str],
    ) -> tuple[list[str | None], SwitchCounts]:
        """Replace words of texts.

        Args:
            role: whose probability applies.
            row: (n,) number of the text's row in the global batch.
            slot: (n,) 0 for a question or a positive passage, 1, 2, ... for the row's hard negatives, which
                share the row's target language and draw their own words.
            language: (n,) index of the text's language, which has a dictionary (`chosen`).
            texts: n texts.

        Returns:
            n texts, None where nothing was replaced; and their counts.
        """
        if not texts:
            return [], SwitchCounts()
        parts = [split_words(text) for text in texts]
        sizes = np.array([len(part) // 2 for part in parts], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        counter = (np.repeat((row << _SLOT_BITS) + slot, sizes) << _WORD_BITS) + position
        key = derive_key("switched word", self.seed, step, role)
        drawn = (uniform(key, counter) < self.probability(role)).tolist()
        tables = self._tables_of_words(role, step, row, language, counter, sizes)
        answer: list[str | None] = []
        known = switched = 0
        for part, of_words, first in zip(parts, tables, offsets.tolist(), strict=False):
            changes = 0
            for index, (word, table) in enumerate(zip(part[1::2], of_words, strict=True)):
                translation = table.get(word.lower())
                if translation is not None:
                    known += 1
                    if drawn[first + index]:
                        part[2 * index + 1] = with_case_of(word, translation)
                        changes += 1
            switched += changes
            answer.append("".join(part) if changes else None)
        return answer, SwitchCounts(len(texts), len(drawn), known, switched)

    def _tables_of_words(
        self,
        role: Role,
        step: int,
        row: Int64s,
        language: NDArray[np.integer],
        counter: Int64s,
        sizes: Int64s,
    ) -> list[list[Translations]]:
        """Return the dictionary of each word of each text."""
        key = derive_key("target language", self.seed, step, role)
        options = np.array([len(tables) for tables in self._tables], np.int64)[language]
        if self.settings.variant == "bilingual":
            of_text = below(key, row, options).tolist()
            return [
                [self._tables[code][target]] * size
                for code, target, size in zip(language.tolist(), of_text, sizes.tolist(), strict=True)
            ]
        of_word = below(key, counter, np.repeat(options, sizes)).tolist()
        ends = np.cumsum(sizes).tolist()
        return [
            [self._tables[code][target] for target in of_word[end - size : end]]
            for code, size, end in zip(language.tolist(), sizes.tolist(), ends, strict=True)
        ]


def plan_batches(corpus: Corpus, settings: BatchSettings, seed: int) -> BatchPlan:
    """Return the batch plan of a run, with code-switching where its settings have it.

    Raises:
        UserError: as `BatchPlan`, or a dictionary cannot be read (see `load_lexicon`).
    """
    switching = None
    if settings.code_switching is not None:
        lexicon = load_lexicon(settings.code_switching, corpus.languages)
        kinds = all_kinds([entry.kind for entry in settings.entries()])
        switching = CodeSwitching(settings.code_switching, lexicon, corpus.languages, seed, kinds)
    return BatchPlan(corpus, settings, seed, switching)
