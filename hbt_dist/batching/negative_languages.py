"""Draw the language of every hard negative, a pure function of seed and step, and check that it can be had.

Letters: B rows, n negatives per row, L languages of the run's passages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_dist.batching.counter_random import Int32s, Int64s, below, derive_key, uniform
from hbt_dist.batching.settings import NEGATIVE_SHARES, HardNegativeSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus


def mined_languages_missing(corpus: Corpus, settings: HardNegativeSettings) -> str:
    """Return one line if negatives shall have the language of their mining, and the data record none."""
    if not settings.count or settings.language != "mined" or corpus.negative_language is not None:
        return ""
    return (
        "batches.hard_negatives.language: mined is like passage here: the data record no language of a "
        "hard negative"
    )


class NegativeLanguages:
    """The languages of the hard negatives of a plan.

    Args:
        settings: number and language of the negatives.
        languages: every language that a passage of the plan can have, ascending (L,).
        seed: of the run.
    """

    def __init__(self, settings: HardNegativeSettings, languages: Int32s, seed: int) -> None:
        self._settings, self._seed = settings, seed
        self._languages = languages.astype(np.int32)

    def draw(self, step: int, question: Int32s, passage: Int32s) -> Int32s:
        """Return the language of each negative: (B,), (B,) -> (B, n). For `mined`, that of the passage."""
        choice, count = self._settings.language, self._settings.count
        numbers = np.arange(len(passage) * count).reshape(-1, count)
        if choice == "random":
            key = derive_key("negative language", self._seed, step)
            return self._languages[below(key, numbers, len(self._languages))]
        if isinstance(choice, str):
            of_row = question if choice == "question" else passage
            return np.repeat(of_row[:, None], count, axis=1)
        return self._by_share(step, question, passage, numbers)

    def _by_share(self, step: int, question: Int32s, passage: Int32s, numbers: Int64s) -> Int32s:
        shares = self._settings.shares()
        ends = np.cumsum([shares.get(name, 0.0) for name in NEGATIVE_SHARES])
        drawn = uniform(derive_key("negative share", self._seed, step), numbers)
        of_share = np.searchsorted(ends, drawn * ends[-1], side="right")
        languages = np.stack([passage, question, passage], axis=1)[np.arange(len(passage))[:, None], of_share]
        if "other" in shares:
            third = of_share == NEGATIVE_SHARES.index("other")
            languages[third] = self._third(step, question, passage, numbers)[third]
        return languages

    def _third(self, step: int, question: Int32s, passage: Int32s, numbers: Int64s) -> Int32s:
        """Return a language of neither question nor passage for each negative, all equally likely."""
        is_third_BL = (self._languages != question[:, None]) & (self._languages != passage[:, None])
        available_B1 = is_third_BL.sum(axis=1, keepdims=True)
        drawn = below(derive_key("other language", self._seed, step), numbers, available_B1)
        # The (drawn + 1)-th of the row's languages: where the running count first exceeds the draw.
        position = (np.cumsum(is_third_BL, axis=1)[:, None, :] > drawn[:, :, None]).argmax(axis=2)
        return self._languages[position]


def check_languages(
    settings: HardNegativeSettings,
    corpus: Corpus,
    pairs: Sequence[tuple[int, int]],
    languages: Int32s,
    num_passages: Int64s,
) -> None:
    """Reject languages of hard negatives that rows of a run cannot have.

    Args:
        settings: number and language of the negatives.
        corpus: for the names of the languages.
        pairs: languages of question and passage that rows can have.
        languages: every language that a passage of the plan can have.
        num_passages: passages of the corpus in each of its languages.

    Raises:
        UserError: names the pair or the language, and the setting to change.
    """
    shares = settings.shares()
    names, choices = corpus.languages, set(languages.tolist())
    needed: set[int] = set()
    for question, passage in pairs:
        third = choices - {question, passage}
        if "other" in shares and not third:
            listed = ", ".join(names[code] for code in sorted(choices))
            raise UserError(
                "batches.hard_negatives.language",
                f"expected a third language for `other` in rows {names[question]}-{names[passage]}, "
                f"got passages in {listed} only",
                "leave out other, or train on more languages",
            )
        of_share = {"passage": {passage}, "question": {question}, "other": third}
        needed.update(*(of_share[name] for name in shares))
    for code in sorted(needed):
        if num_passages[code] < settings.count:
            raise too_few_passages(corpus, code, settings.count)


def too_few_passages(corpus: Corpus, language: int, count: int) -> UserError:
    """Return the error of a language that has too few passages for the negatives of a row."""
    return UserError(
        "batches.hard_negatives.count",
        f"there are not {count} passages in {corpus.languages[language]!r} outside a row's group",
        "lower the count or leave the language out",
    )
