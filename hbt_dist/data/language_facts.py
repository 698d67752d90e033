"""Look up facts about languages: individual ISO 639-3 code, family, main script, English name.

`language_facts.csv` has the languages of all benchmarks that this package reads (made by
benchmarks/evaluation/make_typology_tables.py). Families are the top-level groups of Glottolog; scripts are
ISO 15924 codes of the usual written form in the benchmarks. Macro-languages stand for the individual language
that benchmarks mean by them (ar: Modern Standard Arabic, zh: Mandarin, sw: Coastal Swahili, ms: Standard
Malay, fa: Iranian Persian).
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from hbt_dist.data.languages import base_language, english_name, usual_script

FACTS = Path(__file__).with_name("language_facts.csv")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Language:
    """One row of the table."""

    code: str
    iso639_3: str
    name: str
    family: str
    script: str


def _read_facts() -> dict[str, Language]:
    with FACTS.open(encoding="utf-8", newline="") as file:
        return {row["code"]: Language(**row) for row in csv.DictReader(file)}


LANGUAGES = _read_facts()


def describe(code: str) -> Language:
    """Return the facts of a code: those of its language, with the script of the code.

    A language outside the table has the name and script that CLDR knows, and `unknown` otherwise.
    """
    base = base_language(code)
    language = LANGUAGES.get(base) or Language(
        base, UNKNOWN, english_name(base) or base, UNKNOWN, usual_script(base) or UNKNOWN
    )
    if code == base:
        return language
    part = code.removeprefix(f"{base}-")
    name = english_name(code) or f"{language.name} ({part})"
    script = part.capitalize() if len(part) == 4 else language.script
    return replace(language, code=code, name=name, script=script)


def was_seen(code: str, training_languages: Collection[str] | None) -> bool | None:
    """Check whether training had the language of a code, in any script or region; None if it is unknown."""
    if training_languages is None:
        return None
    return base_language(code) in {base_language(language) for language in training_languages}
