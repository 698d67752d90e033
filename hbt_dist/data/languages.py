"""Spell every language with one code, for all spellings that data sets use.

Codes are lower-case, ISO 639-1 where it exists, ISO 639-3 otherwise; the macro-language stands for its
usual member (`arb` -> `ar`, `cmn` -> `zh`, `ekk` -> `et`). A script or region is kept only where CLDR
doesn't consider it the usual one: `zho-CN`, `zho_Hans` are `zh`, `zho-TW` is `zh-tw`, `arb_Latn` `ar-latn`.
The tables are CLDR's (`languageAlias`, `likelySubtags`), through Babel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

from babel.core import get_global
from pydantic import AfterValidator

_CODE = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|[0-9]{3}))?")


@lru_cache(maxsize=4096)
def language_code(written: str) -> str:
    """Return the code that this package uses for the language `written`.

    Raises:
        ValueError: `written` isn't a language tag of language, optional script, optional region.
    """
    match = _CODE.fullmatch(written)
    if match is None:
        raise ValueError(f"{written!r} is not a language code such as en, fi or zh")
    alias = get_global("language_aliases").get(match[1].lower(), match[1].lower())
    language, _, alias_region = alias.partition("_")
    script = (match[2] or "").capitalize()
    region = (match[3] or alias_region).upper()
    usual = get_global("likely_subtags").get(language, "").split("_")
    parts = [language]
    parts += [script.lower()] if script and script not in usual else []
    parts += [region.lower()] if region and region not in usual else []
    return "-".join(parts)


def language_codes(written: Iterable[str]) -> tuple[str, ...]:
    """Return `language_code` of each, in order.

    Raises:
        ValueError: no entry, an entry isn't a language code, or two name the same language.
    """
    codes = tuple(language_code(code) for code in written)
    if not codes:
        raise ValueError("the list of languages is empty; leave it out to take all")
    twice = sorted({code for code in codes if codes.count(code) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named more than once")
    return codes


#: Types of settings: languages in any spelling, held as this package spells them.
LanguageCode = Annotated[str, AfterValidator(language_code)]
LanguageCodes = Annotated[tuple[str, ...], AfterValidator(language_codes)]
