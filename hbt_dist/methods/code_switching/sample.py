"""Make a small dictionary of the names in the embedded sample, from CLDR.

Countries, languages, scripts, currencies, cities of time zones, weekdays and months whose name in the source
language is a single word: a few hundred words per pair, no download. Like the titles of Wikipedia articles in
the paper's second lexicon, they are mostly names.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from babel import Locale

from hbt_dist.methods.code_switching.words import is_word


@cache
def sample_dictionary(source: str, target: str) -> dict[str, str]:
    """Return lower-case word -> translation for two languages of the sample."""
    ours, theirs = _names(source), _names(target)
    translations: dict[str, str] = {}
    for key, name in ours.items():
        if key in theirs and is_word(name):
            translations.setdefault(name.lower(), theirs[key])
    return translations


@cache
def _names(language: str) -> dict[tuple[str, str], str]:
    """Return (category, CLDR code) -> name; where two things share a name, the first category counts."""
    locale = Locale.parse(language)
    categories: dict[str, Mapping[str | int, str]] = {
        "country": locale.territories,
        "language": locale.languages,
        "script": locale.scripts,
        "currency": locale.currencies,
        "city": {zone: names["city"] for zone, names in locale.time_zones.items() if "city" in names},
        "weekday": locale.days["stand-alone"]["wide"],
        "month": locale.months["stand-alone"]["wide"],
    }
    return {
        (category, str(code)): name
        for category, names in categories.items()
        for code, name in sorted(names.items(), key=lambda item: str(item[0]))
        if name and name != str(code)
    }
