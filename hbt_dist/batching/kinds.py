"""The kinds of batches, by the languages of a row: see `MixtureEntry.kind` in config.py."""

from __future__ import annotations

from typing import Literal

Kind = Literal["monolingual", "crosslingual", "mixed_monolingual", "any_pair"]
KINDS: tuple[Kind, ...] = ("monolingual", "crosslingual", "mixed_monolingual", "any_pair")
