"""Fill prefixes of texts: `{language}` is the English name of the text's language, such as Finnish for fi."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.language_facts import LANGUAGES, describe
from hbt_dist.data.languages import base_language, english_name


def filled(prefix: str, code: str) -> str:
    """Return a prefix for texts in a language.

    Raises:
        UserError: the prefix asks for the name of a language that has none.
    """
    if LANGUAGE not in prefix:
        return prefix
    if not has_name(code):
        raise UserError(
            f"prefix {prefix[:60]!r}",
            f"expected a language with an English name for {LANGUAGE}, got {code!r}",
            "write the name into the question_prefix or passage_prefix of a source of that language alone",
        )
    return prefix.replace(LANGUAGE, describe(code).name)


def has_name(code: str) -> bool:
    """Return whether a language has an English name."""
    base = base_language(code)
    return base in LANGUAGES or bool(english_name(base))


def check_language_names(text: Mapping[str, Any], languages: Sequence[str]) -> None:
    """Refuse a prefix of text settings that asks for the name of a language without one.

    Raises:
        UserError: it names the language.
    """
    for key in ("question_prefix", "passage_prefix"):
        for code in languages:
            filled(text.get(key) or "", code)
