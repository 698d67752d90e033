"""Load the tokenizer of a model, and refuse one that does not belong to it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.models.folders import TOKENIZER_FILE
from hbt_dist.models.layers import word_embeddings

#: A tokenizer below this share of the embedding rows belongs to another model; padded rows are far fewer.
_LEAST_SHARE = 0.5


def load_tokenizer(source: str, trust_remote_code: bool = False, **options: Any) -> Any:
    """Load a tokenizer from a folder or from the model hub, with options of transformers.

    Raises:
        UserError: its files cannot be read.
    """
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(
            source, trust_remote_code=trust_remote_code, **options
        )
    except Exception as error:  # tokenizers raises plain exceptions
        file = Path(source) / TOKENIZER_FILE
        location = str(file) if file.is_file() else source
        problem = f"the tokenizer cannot be loaded: {first_line(error)}"
        raise UserError(location, problem, "copy the tokenizer's files again") from error


def check_vocabulary(tokenizer: Any, backbone: nn.Module, source: str) -> None:
    """Refuse a tokenizer whose size does not fit the rows of the word embeddings."""
    embeddings = word_embeddings(backbone)
    if not isinstance(embeddings, nn.Embedding):
        return
    entries, rows = len(tokenizer), embeddings.num_embeddings
    if entries > rows or entries < _LEAST_SHARE * rows:
        raise UserError(
            source,
            f"its tokenizer has {entries:,} entries, but the model has word embeddings for {rows:,}",
            "copy the tokenizer's files of the same model into the folder",
        )


def set_padding(tokenizer: Any, source: str) -> list[str]:
    """Set an existing token as the padding token if the tokenizer has none; libraries need one for batches.

    Returns:
        a line on the token, if one was set.

    Raises:
        UserError: no token can pad.
    """
    tokenizer.padding_side = "right"  # learned positions of other readers count padding on the left
    if tokenizer.pad_token_id is not None:
        return []
    token = tokenizer.eos_token or tokenizer.sep_token or tokenizer.unk_token
    if token is None:
        raise UserError(source, "the tokenizer has no padding and no end token", "give it one of them")
    tokenizer.pad_token = token
    return [f"{source}: the tokenizer has no padding token and takes {token!r}; no vector depends on it"]


def lower_case(tokenizer: Any, source: str) -> None:
    """Let a tokenizer lower-case texts first, as sentence-transformers does for `do_lower_case`.

    Raises:
        UserError: the tokenizer has no normalizer that could do it.
    """
    from tokenizers import normalizers

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            source,
            "lowercase (do_lower_case) needs a tokenizer of the library tokenizers, got one in Python",
            "set text.lowercase: false, or save the model with a fast tokenizer",
        )
    present: Any = backend.normalizer
    is_sequence = type(present) is normalizers.Sequence
    parts: list[Any] = list(present) if is_sequence else [present] * (present is not None)
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])


def ends_texts(tokenizer: Any) -> bool:
    """Return whether the tokenizer puts a special token behind a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    return bool(encoded["special_tokens_mask"][-1])


def unheeded(tokenizer: Any, given: Mapping[str, Any], source: str) -> list[str]:
    """Return a line per setting of a user that the tokenizer of the folder decides otherwise.

    Exported folders repeat `lowercase` and `append_eos` in the tokenizer, for other readers.
    """
    decided = {}
    if given.get("lowercase") is False and _lower_cases(tokenizer):
        decided["lowercase"] = "lower-cases texts"
    if given.get("append_eos") is False and ends_texts(tokenizer):
        decided["append_eos"] = "ends texts in a special token"
    return [
        f"{source}: {key}: false has no effect, because the tokenizer {what}; change its {TOKENIZER_FILE}, "
        "or leave the setting out"
        for key, what in decided.items()
    ]


def _lower_cases(tokenizer: Any) -> bool:
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    return normalizer is not None and "a" in normalizer.normalize_str("A")


def tokenizer_digest(tokenizer: Any) -> str:
    """Return the sha256 of what decides the token ids: 0.5 s for 250,000 pieces."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        described = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    else:  # the state of the last call is not a part of the tokenizer
        backend.no_truncation()
        backend.no_padding()
        described = backend.to_str()
    return hashlib.sha256(described.encode()).hexdigest()
