"""Read facts about countries, with their names in every language of the sample, from facts.json.

The file holds facts of CLDR (Unicode Common Locale Data Repository; Unicode License v3).
tests/helpers/cldr_facts.py took them from Babel 2.18. A fact is there only if CLDR names the country, the
answer and a city of the country in all languages: the sample is fully parallel.

Six relations of a country: its currency, the year since which that currency is legal tender, its official
language, that language's script, the first day of the week, its time zone. Each is there only where CLDR
gives one unambiguous answer (one current currency, one official language, one zone name for all the country).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files

RELATIONS = ("currency", "currency_since", "official_language", "script", "first_weekday", "time_zone")


@dataclass(frozen=True, slots=True)
class Fact:
    """What CLDR says about one (country, relation) pair.

    Attributes:
        territory: ISO 3166-1 alpha-2 code of the country.
        relation: one of `RELATIONS`.
        value: CLDR's code of the answer: ``"EUR"``, ``"1999"``, ``"fi"``, ``"Latn"``, ``"0"`` (Monday),
            ``"Europe_Eastern"``.
        territory_name, answer, city: language -> name in its citation form.
    """

    territory: str
    relation: str
    value: str
    territory_name: dict[str, str]
    answer: dict[str, str]
    city: dict[str, str]

    @property
    def id(self) -> str:
        """``"FI-currency"``."""
        return f"{self.territory}-{self.relation}"


def read_facts() -> list[Fact]:
    """Return all facts, by country code, then in the order of `RELATIONS`."""
    content = json.loads((files(__package__) / "facts.json").read_text(encoding="utf-8"))
    return [
        Fact(
            territory,
            relation,
            value,
            country["name"],
            content["answers"][relation][value],
            country["city"],
        )
        for territory, country in content["countries"].items()
        for relation, value in country["facts"].items()
    ]
