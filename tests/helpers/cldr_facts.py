"""Make facts.json of the embedded sample: facts about countries and their names from CLDR, through Babel.

    python -m tests.helpers.cldr_facts        writes hbt_dist/data/sample/facts.json

CLDR (the Unicode Common Locale Data Repository) holds data about territories and translated names for it;
Babel ships both inside its package, so the sample needs no download. A fact is kept only if CLDR names the
country, the answer and a city of the country in all requested languages: the sample is fully parallel and
has no fallback code such as "XK" in a text. About a tenth of a second, plus the locales' loading.

Six relations of a country: its currency, the year since which that currency is legal tender, its official
language, that language's script, the first day of the week, its time zone. Each is kept only where CLDR
gives one unambiguous answer (one current currency, one official language, one zone name for all the country).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from babel import Locale, UnknownLocaleError
from babel.core import get_global

from hbt_dist.data.sample import LANGUAGES

FACTS = Path(__file__).parents[2] / "hbt_dist" / "data" / "sample" / "facts.json"

# Member states of the United Nations: the texts say "country". CLDR knows more territories than that.
_MEMBER_STATES = """
AD AE AF AG AL AM AO AR AT AU AZ BA BB BD BE BF BG BH BI BJ BN BO BR BS BT BW BY BZ CA CD CF CG CH CI CL CM CN
CO CR CU CV CY CZ DE DJ DK DM DO DZ EC EE EG ER ES ET FI FJ FM FR GA GB GD GE GH GM GN GQ GR GT GW GY HN HR HT
HU ID IE IL IN IQ IR IS IT JM JO JP KE KG KH KI KM KN KP KR KW KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME
MG MH MK ML MM MN MR MT MU MV MW MX MY MZ NA NE NG NI NL NO NP NR NZ OM PA PE PG PH PK PL PT PW PY QA RO RS RU
RW SA SB SC SD SE SG SI SK SL SM SN SO SR SS ST SV SY SZ TD TG TH TJ TL TM TN TO TR TT TV TZ UA UG US UY UZ VC
VE VN VU WS YE ZA ZM ZW
"""
COUNTRIES: tuple[str, ...] = tuple(_MEMBER_STATES.split())

# CLDR calls these two "Simplified" and "Traditional", which alone does not name a script.
SCRIPTS_WITHOUT_A_NAME = frozenset({"Hans", "Hant"})

OFFICIAL = frozenset({"official", "de_facto_official"})  # throughout the country, by law or in practice

MIN_FACTS_PER_COUNTRY = 4  # of 6; the many countries with two official languages have at most four

DIGITS = {"arab": "٠١٢٣٤٥٦٧٨٩", "arabext": "۰۱۲۳۴۵۶۷۸۹", "deva": "०१२३४५६७८९"}  # by CLDR numbering system


@dataclass(frozen=True, slots=True)
class _Relation:
    value: Callable[[str], str | None]  # territory -> code of the answer, None where CLDR gives no single one
    name: Callable[[Locale, str], str | None]  # code of the answer -> its name in a language


def collect_facts(languages: Sequence[str]) -> dict[str, Any]:
    """Return the facts that CLDR can name in all `languages`: the content of facts.json."""
    locales = {language: Locale.parse(language) for language in languages}
    countries: dict[str, Any] = {}
    answers: dict[str, dict[str, dict[str, str]]] = {key: {} for key in RELATIONS}
    for territory, territory_name in _named_countries(locales).items():
        city = _in_all(locales, _city, next(iter(_zones(territory)), None))
        if city is None:
            continue
        named = {
            key: (value, answer)
            for key, relation in RELATIONS.items()
            if (value := relation.value(territory)) is not None
            and (answer := _in_all(locales, relation.name, value)) is not None
        }
        if len(named) >= MIN_FACTS_PER_COUNTRY:
            for key, (value, answer) in named.items():
                answers[key][value] = answer
            facts = {key: value for key, (value, _) in named.items()}
            countries[territory] = {"name": territory_name, "city": city, "facts": facts}
    return {"countries": countries, "answers": answers}


def _named_countries(locales: dict[str, Locale]) -> dict[str, dict[str, str]]:
    """Countries named in all languages, each name belonging to one country only."""
    named = {
        territory: names
        for territory in sorted(COUNTRIES)
        if (names := _in_all(locales, lambda locale, code: locale.territories.get(code), territory))
    }
    uses = Counter((language, name) for names in named.values() for language, name in names.items())
    return {
        territory: names
        for territory, names in named.items()
        if all(uses[language, name] == 1 for language, name in names.items())
    }


def _in_all(
    locales: dict[str, Locale], name: Callable[[Locale, str], str | None], code: str | None
) -> dict[str, str] | None:
    """The name of `code` in each language, or None if some language has none or only repeats the code."""
    if code is None:
        return None
    names = {language: name(locale, code) for language, locale in locales.items()}
    complete = {language: text for language, text in names.items() if text and _says_more(text, code)}
    return complete if len(complete) == len(locales) else None


def _says_more(name: str, code: str) -> bool:
    """False for a code that stands for its own missing name; a year is its own name."""
    return name != code or code.isdigit()


def _current_currency(territory: str) -> tuple[str, str] | None:
    """(code, year of introduction) of the country's only current legal tender."""
    rows = get_global("territory_currencies").get(territory, [])
    current = [(code, str(start[0])) for code, start, end, tender in rows if tender and end is None and start]
    return current[0] if len(current) == 1 else None


def _official_language(territory: str) -> str | None:
    spoken = get_global("territory_languages").get(territory, {})
    official = [code for code, info in spoken.items() if info["official_status"] in OFFICIAL]
    return official[0] if len(official) == 1 else None


def _script(territory: str) -> str | None:
    """ISO 15924 code of the script in which the country writes its official language."""
    language = _official_language(territory)
    if language is None:
        return None
    likely = get_global("likely_subtags")
    tag = language if "_" in language else likely.get(f"{language}_{territory}") or likely.get(language)
    script = tag.split("_")[1] if tag else None
    return None if script in SCRIPTS_WITHOUT_A_NAME else script


def _first_weekday(territory: str) -> str | None:
    """Return 0 for Monday to 6 for Sunday; known for countries with a locale in Babel."""
    tag = get_global("likely_subtags").get(f"und_{territory}")
    language = _official_language(territory)
    for candidate in (tag, f"{language}_{territory}", f"en_{territory}"):
        try:
            locale = Locale.parse(candidate, resolve_likely_subtags=False) if candidate else None
        except (UnknownLocaleError, ValueError):
            continue
        if locale is not None and locale.territory == territory:
            return str(locale.first_week_day)
    return None


def _zones(territory: str) -> list[str]:
    """Ids of the country's time zones, as CLDR's names know them: often an older name than that of tz."""
    zones: list[str] = get_global("territory_zones").get(territory, [])
    return [_cldr_zone(zone) for zone in zones]


@cache
def _cldr_zone(zone: str) -> str:
    """``"America/Argentina/Buenos_Aires"`` -> ``"America/Buenos_Aires"``."""
    meta_zones = get_global("meta_zones")
    older = [old for old, new in get_global("zone_aliases").items() if new == zone and old in meta_zones]
    return zone if zone in meta_zones or not older else min(older)


def _time_zone(territory: str) -> str | None:
    """CLDR's key of the zone name (a "metazone") that all zones of the country share."""
    meta_zones = get_global("meta_zones")
    used = {meta_zones.get(zone) for zone in _zones(territory)}
    return used.pop() if len(used) == 1 else None


def _time_zone_name(locale: Locale, meta_zone: str) -> str | None:
    return locale.meta_zones.get(meta_zone, {}).get("long", {}).get("standard")


def _city(locale: Locale, zone: str) -> str:
    """The place after which the tz database names the zone; the zone's id holds it too."""
    city: str | None = locale.time_zones.get(zone, {}).get("city")
    return city or zone.rsplit("/", 1)[-1].replace("_", " ")


def _year(locale: Locale, year: str) -> str:
    digits = DIGITS.get(locale.default_numbering_system, "0123456789")
    return "".join(digits[int(digit)] for digit in year)


def _weekday_name(locale: Locale, day: str) -> str | None:
    return locale.days["stand-alone"]["wide"].get(int(day))


RELATIONS: dict[str, _Relation] = {
    "currency": _Relation(
        lambda territory: (_current_currency(territory) or (None,))[0],
        lambda locale, code: locale.currencies.get(code),
    ),
    "currency_since": _Relation(lambda territory: (_current_currency(territory) or (None, None))[1], _year),
    "official_language": _Relation(_official_language, lambda locale, code: locale.languages.get(code)),
    "script": _Relation(_script, lambda locale, code: locale.scripts.get(code)),
    "first_weekday": _Relation(_first_weekday, _weekday_name),
    "time_zone": _Relation(_time_zone, _time_zone_name),
}


if __name__ == "__main__":
    FACTS.write_text(
        json.dumps(collect_facts(tuple(LANGUAGES)), ensure_ascii=False, indent=1) + "\n", "utf-8"
    )
