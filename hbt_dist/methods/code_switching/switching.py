"""Which words of which rows become which: a pure function of (seed, step, global row, role).

A batch is switched the same whatever the number of processes: what is drawn for a word depends on the run's
seed, the step, the row's number in the *global* batch, the role, and the word's place in its text.

Letters: n texts, W words of all of them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s, below, derive_key, uniform
from hbt_dist.batching.kinds import KINDS
from hbt_dist.methods.code_switching.dictionaries import Lexicon, Translations, load_lexicon
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings
from hbt_dist.methods.code_switching.words import split_words, with_case_of

Role = Literal["question", "passage"]

_SLOT_BITS, _WORD_BITS = 12, 20  # hard negatives of a row, words of a text


@dataclass(frozen=True)
class SwitchCounts:
    """What happened to the texts that code-switching looked at; texts without a dictionary do not count."""

    texts: int = 0
    words: int = 0  # of these texts
    known: int = 0  # words that the dictionary at hand has
    switched: int = 0  # words that were replaced

    @property
    def ratio(self) -> float:
        """Share of the words that were replaced; below the probability, as words without translation stay."""
        return self.switched / self.words if self.words else 0.0

    def __add__(self, other: SwitchCounts) -> SwitchCounts:
        return SwitchCounts(**{name: value + getattr(other, name) for name, value in asdict(self).items()})


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
    _tables: list[list[Translations]] = field(init=False, repr=False)  # by language index, then target

    def __post_init__(self) -> None:
        pairs = self.lexicon.pairs
        tables = [[pairs[code][t] for t in sorted(pairs.get(code, ()))] for code in self.languages]
        object.__setattr__(self, "_tables", tables)

    @classmethod
    def of(
        cls,
        settings: CodeSwitchingSettings,
        languages: Sequence[str],
        seed: int,
        kinds: tuple[str, ...] = KINDS,
    ) -> CodeSwitching:
        """Read the dictionaries.

        Raises:
            UserError: see `load_lexicon`.
        """
        return cls(settings, load_lexicon(settings, languages), tuple(languages), seed, kinds)

    @property
    def state(self) -> dict[str, Any]:
        """All that decides the switched texts, as plain data."""
        return {**self.settings.decisive(), "dictionaries": self.lexicon.fingerprint}

    def chosen(
        self, step: int, row: Int64s, kind: NDArray[np.integer], language: NDArray[np.integer]
    ) -> NDArray[np.bool_]:
        """Return which texts are looked at: their row is drawn, is of a kind that is switched, and their
        language has a dictionary.

        Args:
            row: (n,) number of the text's row in the global batch.
            kind: (n,) index of the row's kind in `kinds`.
            language: (n,) index of the text's language.
        """
        has_table = np.array([bool(tables) for tables in self._tables])
        of_kind = np.array([self.settings.kinds is None or one in self.settings.kinds for one in self.kinds])
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
            n texts, None where nothing was replaced; and what was counted.
        """
        if not texts:
            return [], SwitchCounts()
        chance = (
            self.settings.question_probability if role == "question" else self.settings.passage_probability
        )
        parts = [split_words(text) for text in texts]
        sizes = np.array([len(one) // 2 for one in parts], np.int64)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        counter = (np.repeat((row << _SLOT_BITS) + slot, sizes) << _WORD_BITS) + place
        drawn = uniform(derive_key("switched word", self.seed, step, role), counter) < chance
        tables = self._tables_of_words(role, step, row, language, counter, sizes)
        flags = drawn.tolist()
        answer: list[str | None] = []
        known = switched = 0
        for one, of_words, first in zip(parts, tables, offsets.tolist(), strict=False):
            words = one[1::2]
            found = [table.get(word) for table, word in zip(of_words, map(str.lower, words), strict=True)]
            changes = 0
            for index, translation in enumerate(found):
                if translation is not None:
                    known += 1
                    if flags[first + index]:
                        one[2 * index + 1] = with_case_of(words[index], translation)
                        changes += 1
            switched += changes
            answer.append("".join(one) if changes else None)
        return answer, SwitchCounts(len(texts), len(flags), known, switched)

    def _tables_of_words(
        self,
        role: Role,
        step: int,
        row: Int64s,
        language: NDArray[np.integer],
        counter: Int64s,
        sizes: Int64s,
    ) -> list[list[Translations]]:
        """Return for each word of each text the dictionary that it is looked up in."""
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


class Summing(Protocol):
    """Processes that can add up integers: `hbt_dist.contrastive.world.World`."""

    @property
    def device(self) -> torch.device:
        """Where the counts are put to be added."""

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""


def summed_figures(counts: Mapping[Role, SwitchCounts], world: Summing) -> dict[str, Any]:
    """Return the figures of a step over all processes: the realised ratios, and the counts behind them.

    Collective: one sum of eight integers.
    """
    local = [astuple(one) for one in counts.values()]
    summed = world.all_reduce(torch.tensor(local, dtype=torch.int64, device=world.device)).tolist()
    found = {role: SwitchCounts(*one) for role, one in zip(counts, summed, strict=True)}
    ratios = {f"switched_{role}_words": round(one.ratio, 6) for role, one in found.items()}
    return {**ratios, "code_switching": {role: asdict(one) for role, one in found.items()}}
