"""Read run files that an older version recorded."""

from __future__ import annotations

import fnmatch
from typing import Any

_ATTENTION, _IMPLEMENTATION = "attention", "attention_implementation"
#: Keys that older versions did not record -> the value that describes such a run.
_UNRECORDED: dict[str, Any] = {
    "model.vocabulary": "keep",
    "data.sources.*.columns.prefix": "prefix",
    "data.sources.*.columns.passage_score": "pos_scores",
    "data.sources.*.columns.negative_scores": "neg_scores",
    "loss.info_nce_weight": 1.0,
    "teachers": {},
}


def renamed_keys(model: Any) -> Any:
    """Return the `model` block with the present names of its keys; any other value as it is."""
    if not isinstance(model, dict) or _ATTENTION not in model or _IMPLEMENTATION in model:
        return model
    return {_IMPLEMENTATION if key == _ATTENTION else key: value for key, value in model.items()}


def is_newer_default(key: str, recorded: Any, now: Any) -> bool:
    """Return whether a run lacks a dotted key because it is older than the key, and behaves as `now` says.

    A field named prefix was not read then; if the data has such a field, the corpus has changed, which the
    trainer refuses. Scores of a teacher change no batch.
    """
    return recorded is None and any(
        fnmatch.fnmatchcase(key, pattern) and now == value for pattern, value in _UNRECORDED.items()
    )
