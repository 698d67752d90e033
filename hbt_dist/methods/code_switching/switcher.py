"""The texts of a batch's rows, switched, and the token rows they give.

Only texts in which a word was replaced are tokenised again; all other rows are those of the token store.
Cost: 256 rows of the embedded sample, 11 words per question and 18 per passage and every text changed, take
about 15 ms, and the tokenizer 45 ms on one core, which it divides among the cores it may use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hbt_dist.batching.corpus_view import TextCorpus
from hbt_dist.batching.counter_random import Int64s
from hbt_dist.batching.plan import GlobalBatch
from hbt_dist.batching.tokens import TokenRows, encode_texts, replace_rows
from hbt_dist.methods.code_switching.switching import CodeSwitching, Role, SwitchCounts
from hbt_dist.models.settings import TextSettings

Counts = dict[Role, SwitchCounts]


@dataclass(frozen=True)
class SwitchedTexts:
    """The texts of one role that were changed."""

    place: Int64s  # (m,) which of the role's texts
    texts: list[str]  # (m)
    counts: SwitchCounts


@dataclass(frozen=True)
class Switcher:
    """Switches the rows of batches.

    Attributes:
        switching: which words become which.
        corpus: the plan's, with its texts.
        tokenizer, text: as the token store has used them.
    """

    switching: CodeSwitching
    corpus: TextCorpus
    tokenizer: Any
    text: TextSettings

    def apply(
        self, batch: GlobalBatch, first_row: int, questions: TokenRows, passages: TokenRows
    ) -> tuple[TokenRows, TokenRows, Counts]:
        """Return the token rows of a slice of a global batch, switched.

        Args:
            batch: b rows, a slice of a global batch.
            first_row: number of its first row in the global batch.
            questions: (b) as they are in the token store.
            passages: (b * (1 + n)) positives, then hard negatives row by row.
        """
        asked = switched_questions(self.switching, self.corpus, batch, first_row)
        answers = switched_passages(self.switching, self.corpus, batch, first_row)
        return (
            self._tokens("question", asked, questions),
            self._tokens("passage", answers, passages),
            {"question": asked.counts, "passage": answers.counts},
        )

    def _tokens(self, role: Role, switched: SwitchedTexts, rows: TokenRows) -> TokenRows:
        if not switched.texts:
            return rows
        prefix, limit = self.text.prefix(role), self.text.max_tokens(role)
        encoded = encode_texts(self.tokenizer, [prefix + one for one in switched.texts], limit)
        return replace_rows(rows, switched.place, encoded)


def switched_questions(
    switching: CodeSwitching, corpus: TextCorpus, batch: GlobalBatch, first_row: int
) -> SwitchedTexts:
    """Return the questions of a slice of a global batch in which a word is replaced."""
    row = first_row + np.arange(len(batch))
    return _switched(
        switching,
        "question",
        batch.step,
        _Texts(
            row, np.zeros(len(batch), np.int64), batch.kind_of_row, batch.question_language, batch.example
        ),
        corpus.question_text,
    )


def switched_passages(
    switching: CodeSwitching, corpus: TextCorpus, batch: GlobalBatch, first_row: int
) -> SwitchedTexts:
    """Return the passages (positives, then hard negatives row by row) in which a word is replaced."""
    size, negatives = batch.negative.shape
    own = np.arange(size)
    of_text = np.concatenate([own, np.repeat(own, negatives)])
    slot = np.concatenate([np.zeros(size, np.int64), np.tile(np.arange(1, negatives + 1), size)])
    language = np.concatenate([batch.passage_language, batch.negative_language.ravel()])
    positive = np.asarray(corpus.example_passage)[batch.example]
    source = np.concatenate([positive, batch.negative.ravel()])
    texts = _Texts(first_row + of_text, slot, batch.kind_of_row[of_text], language, source)
    return _switched(switching, "passage", batch.step, texts, corpus.passage_text)


@dataclass(frozen=True)
class _Texts:
    """n texts by what they are, (n,) each."""

    row: Int64s
    slot: Int64s
    kind: Any
    language: Any
    source: Int64s  # row of the corpus


def _switched(
    switching: CodeSwitching, role: Role, step: int, texts: _Texts, read: Callable[[int, int], str]
) -> SwitchedTexts:
    place = np.flatnonzero(switching.chosen(step, texts.row, texts.kind, texts.language))
    language = texts.language[place]
    plain = [
        read(row, code) for row, code in zip(texts.source[place].tolist(), language.tolist(), strict=True)
    ]
    found, counts = switching.switch(role, step, texts.row[place], texts.slot[place], language, plain)
    changed = [number for number, text in enumerate(found) if text is not None]
    return SwitchedTexts(place[changed], [text for text in found if text is not None], counts)
