"""Give each text of `FlatTexts` the prefix that a training gives it: its source's, else the model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from hbt_dist.batching.tokens import prefixes_of_rows
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.models.settings import TextSettings

_TEXTS_AT_ONCE = 65536


class FlatPrefixes(Sequence[str]):
    """The prefix of each text, computed when it is read; no memory per text.

    Args:
        texts: of a role.
        text: prefixes of the encoder.
    """

    def __init__(self, texts: FlatTexts, text: TextSettings) -> None:
        self._texts, self._text = texts, text

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, texts: int) -> str: ...

    @overload
    def __getitem__(self, texts: slice) -> list[str]: ...

    def __getitem__(self, texts: int | slice) -> str | list[str]:
        if isinstance(texts, int):
            return self[range(len(self))[texts] : range(len(self))[texts] + 1][0]
        rows, languages = self._texts.sources(range(len(self))[texts])
        return prefixes_of_rows(self._texts.corpus, self._text, self._texts.role, rows, languages)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _TEXTS_AT_ONCE):
            yield from self[start : start + _TEXTS_AT_ONCE]


def flat_prefixes(texts: FlatTexts, text: TextSettings) -> FlatPrefixes | None:
    """Return the prefixes of texts for `encode_with_flags`; None if all have the encoder's.

    Raises:
        UserError: a prefix has `{language}`, and a language has no known name.
    """
    corpus = texts.corpus
    codes = corpus.example_prefix if texts.role == "question" else corpus.passage_prefix
    if codes is None and LANGUAGE not in text.prefix(texts.role):
        return None
    return FlatPrefixes(texts, text)
