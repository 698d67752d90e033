"""Refuse mining settings that no corpus, or not this corpus, can satisfy, before anything is encoded."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.console import counted, note
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.mining.blocks import languages_of_lists
from hbt_dist.mining.settings import MiningSettings, Share


def check_mining(settings: MiningSettings, corpus: Corpus) -> None:
    """Check ranks against the number of passages, and shares against the languages of the examples.

    Raises:
        UserError: rank_min skips every passage, or no example has a language of a share.
    """
    most = corpus.num_passages - 1
    if settings.rank_min + settings.count > most:
        raise UserError(
            "mining.rank_min",
            f"expected at most {max(most - settings.count, 0):,} for count {settings.count}: the pool has "
            f"{counted(corpus.num_passages, 'passage')}, got {settings.rank_min:,}",
            "lower rank_min or count, or mine in more data",
        )
    if settings.rank_max is not None and settings.rank_max > most:
        note(f"mining.rank_max {settings.rank_max:,} is beyond the pool of {counted(most, 'passage')}")
    codes, has = ", ".join(corpus.languages), languages_of_shares(corpus)
    for share in settings.shares():
        if not has[share].any():
            raise UserError(
                f"mining.languages: {share}",
                f"expected a passage in {_WANTED[share]} for some example; the corpus has [{codes}]",
                "set mining.languages to any, or to shares of languages that the examples leave",
            )


def languages_of_shares(corpus: Corpus) -> dict[Share, NDArray[np.bool_]]:
    """Return for each share whether the examples of a cell can have such a negative in a language: (C, L)."""
    pool = corpus.set_languages.any(0)
    lists = languages_of_lists(corpus.cell_passages, corpus.cell_questions)
    return {share: languages & pool for share, languages in lists.items()}


_WANTED = {
    "any": "any language",
    "passage": "a language of the example's passage",
    "question": "a language of the example's question",
    "other": "a language that neither question nor passage have",
}
