"""Tokenise texts up to a length limit, and count what the limit cut.

A tokenizer reads a whole text before it cuts: 275 bytes of memory per character. Texts are therefore cut by
characters first, at white space and far behind the limit. A text that gives too few tokens is read again
with four times the characters. Words are tokenised separately, so that the kept ids are those of the whole
text; a text without white space must give twice the limit, which leaves its first half undisturbed
(tests/models/test_tokenising.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError

#: Characters that are read for each token of the limit; words of all languages take 1 to 8 per token.
CHARACTERS_PER_TOKEN = 16
_MORE = 4
_TEXTS_PER_CALL = 1024
_CHARACTERS_PER_CALL = 2**21
#: Share of unknown tokens that makes a text unreadable, and of unreadable texts that refuses the tokenizer.
_UNREADABLE = 0.9
_SAMPLE = 256


@dataclass(frozen=True)
class Tokenised:
    """Token ids of n texts."""

    ids: list[NDArray[np.int32]]  # special tokens included
    cut: NDArray[np.bool_]  # (n,) whether the limit cut the text
    special_only: NDArray[np.bool_]  # (n,) whether the text gave no token but special ones and its prefix
    prompts: NDArray[np.int64]  # (n,) tokens of the prompt, which pooling can leave out

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens per text."""
        return np.array([len(ids) for ids in self.ids], np.int64)


def tokenise(tokenizer: Any, texts: Sequence[str], limit: int, prefix: str | Sequence[str] = "") -> Tokenised:
    """Return the token ids of each text with its prefix, cut at the limit.

    Cost: memory of 0.3 GB for a call of 1,024 long texts, however long they are.

    Args:
        prefix: of all texts, or of each of them.

    Raises:
        UserError: a prefix leaves no token for a text.
    """
    prefixes = [prefix] * len(texts) if isinstance(prefix, str) else prefix
    starts = {part: _start(tokenizer, part, limit) for part in dict.fromkeys(prefixes)}
    ids: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(texts)
    cut = np.zeros(len(texts), bool)
    size, waiting = limit * CHARACTERS_PER_TOKEN, list(range(len(texts)))
    while waiting:
        short: list[int] = []
        for rows in _calls(waiting, texts, size):
            read = [prefixes[row] + _head(texts[row], size) for row in rows]
            for row, (row_ids, parts) in zip(rows, _encode(tokenizer, read, limit), strict=True):
                ids[row], cut[row] = np.array(row_ids, np.int32), parts > 1
                if parts < 3 and len(texts[row]) > size:
                    short.append(row)
        size, waiting = size * _MORE, short
    of_row = np.array([starts[part] for part in prefixes], np.int64).reshape(-1, 2)
    lengths = np.array([len(row_ids) for row_ids in ids], np.int64)
    return Tokenised(ids, cut, lengths <= of_row[:, 0], of_row[:, 1])


def _start(tokenizer: Any, prefix: str, limit: int) -> tuple[int, int]:
    """Return the tokens of a prefix alone: all of them, and those that pooling can leave out.

    The second number is that of sentence-transformers: it counts special tokens before the prefix but not
    the one behind it, and a token that the prefix would share with the text.
    """
    ids = tokenizer(prefix, add_special_tokens=True)["input_ids"]
    if not prefix:
        return len(ids), 0
    if len(ids) >= limit:
        raise UserError(
            f"prefix {prefix[:60]!r}",
            f"takes {len(ids)} tokens, but a text has at most {limit}",
            "shorten it, or raise max_question_tokens or max_passage_tokens",
        )
    return len(ids), len(ids) - (ids[-1] in getattr(tokenizer, "all_special_ids", ()))


def token_mask(
    lengths: NDArray[np.integer], width: int, prompts: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Return the mask (n, width) of rows that are padded on the right, as `Encoder` reads it.

    Args:
        lengths: (n,) tokens per row.
        width: columns.
        prompts: (n,) tokens at the start of each row that pooling leaves out: 2 in the mask.
    """
    columns = np.arange(width)
    mask_nT = (columns < lengths[:, None]).astype(np.int64)
    return mask_nT if prompts is None else mask_nT * (1 + (columns < prompts[:, None]))


def _head(text: str, size: int) -> str:
    """Return about the first `size` characters, up to white space if there is any in the last quarter."""
    if len(text) <= size:
        return text
    head = text[:size]
    words = head.rsplit(maxsplit=1)
    return words[0] if len(words) == 2 and len(words[0]) > 3 * size // 4 else head


def _calls(rows: Sequence[int], texts: Sequence[str], size: int) -> Iterator[list[int]]:
    """Group rows so that one call of the tokenizer reads a bounded number of characters."""
    call: list[int] = []
    characters = 0
    for row in rows:
        length = min(len(texts[row]), size)
        if call and (len(call) == _TEXTS_PER_CALL or characters + length > _CHARACTERS_PER_CALL):
            yield call
            call, characters = [], 0
        call.append(row)
        characters += length
    if call:
        yield call


def _encode(tokenizer: Any, texts: list[str], limit: int) -> Iterator[tuple[list[int], int]]:
    """Yield for each text its ids, and how many parts of `limit` tokens it has."""
    options = {
        "add_special_tokens": True,
        "return_attention_mask": False,
        "return_token_type_ids": False,
        "verbose": False,
    }
    encoded = tokenizer(texts, truncation=True, max_length=limit, **options)
    if encoded.encodings is not None:  # they hold the tokens behind the limit
        parts = [1 + len(encoding.overflowing) for encoding in encoded.encodings]
    else:  # a tokenizer in Python
        full = [len(ids) for ids in tokenizer(texts, **options)["input_ids"]]
        parts = [-(-length // limit) for length in full]
    return zip(encoded["input_ids"], parts, strict=True)


def check_readable(tokenizer: Any, texts: Sequence[str], source: str) -> None:
    """Refuse a tokenizer that knows nearly nothing of the texts; looks at `_SAMPLE` of them, evenly spread.

    Raises:
        UserError: nearly all texts are unknown tokens, or no tokens.
    """
    rows = np.unique(np.linspace(0, len(texts) - 1, min(_SAMPLE, len(texts))).astype(np.int64)).tolist()
    sample = [text for row in rows for text in texts[row : row + 1] if text and text.strip()]
    if not sample:
        return
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    unreadable = 0
    for ids in tokenise(tokenizer, sample, 64).ids:
        content = [token for token in ids.tolist() if token not in special]
        unknown = content.count(tokenizer.unk_token_id)
        unreadable += unknown >= _UNREADABLE * len(content)
    if unreadable > _UNREADABLE * len(sample):
        raise UserError(
            source,
            f"its tokenizer reads {unreadable} of {len(sample)} texts as unknown tokens or as none, such as "
            f"{sample[0][:40]!r}",
            "copy the tokenizer's files of this model into its folder, or take a model for these languages",
        )
