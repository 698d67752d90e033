"""Make language_facts.csv and comparison/data/*.csv from the wheels of lang2vec 1.1.2 and urielplus 1.3.2.

    pip download --no-deps lang2vec==1.1.2 urielplus==1.3.2
    python benchmarks/evaluation/make_typology_tables.py lang2vec-*.whl urielplus-*.whl

Reads the data inside the wheels and imports neither package. The languages are those of
tests/data/published_languages.json; rows that language_facts.csv has already stay as they are.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
from babel.core import get_global

from hbt_dist.data.language_facts import FACTS, LANGUAGES, Language
from hbt_dist.data.languages import base_language, english_name, language_code, usual_script

ROOT = Path(__file__).parents[2]
OUT = ROOT / "hbt_dist" / "comparison" / "data"
INDIVIDUAL = {"est": "ekk"}  # URIEL has Estonian under its macro-language's code, Glottolog does not
# The usual member of a macrolanguage, as benchmarks mean it.
MEMBERS = {
    "ak": "aka", "ay": "ayr", "bo": "bod", "chm": "mhr", "din": "dik", "dz": "dzo", "ff": "fuc", "gn": "gug",
    "kg": "kng", "kr": "knc", "ku": "kmr", "mg": "plt", "mi": "mri", "om": "gaz", "or": "ory", "ps": "pbt",
    "sa": "san", "sc": "src", "tw": "twi", "yi": "ydd",
}  # fmt: skip
# Names that CLDR lacks (ISO 639-3), and families of collective codes.
NAMES = {
    "acm": "Mesopotamian Arabic", "acq": "Ta'izzi-Adeni Arabic", "ajp": "South Levantine Arabic",
    "apc": "Levantine Arabic", "azb": "South Azerbaijani", "ber": "Berber", "cbk": "Chavacano",
    "cjk": "Chokwe", "fuv": "Nigerian Fulfulde", "hne": "Chhattisgarhi", "kbp": "Kabiyè",
    "kzj": "Coastal Kadazan", "max": "North Moluccan Malay", "mey": "Hassaniyya", "orv": "Old Russian",
    "quy": "Ayacucho Quechua", "swg": "Swabian", "taq": "Tamasheq", "tzl": "Talossan",
}  # fmt: skip
FAMILIES = {"ber": "Afro-Asiatic", "hmn": "Hmong-Mien"}
URIELPLUS = "urielplus/database/urielplus_csvs/"


def main() -> None:
    lang2vec, urielplus = (zipfile.ZipFile(path) for path in sys.argv[1:3])
    glottocode = {row["iso_code"]: row["glottocode"] for row in read(urielplus, "uriel_glottocode_map.csv")}
    places = {row["language_id"]: row for row in read(urielplus, "lang_fam_geo.csv")}
    families = {iso: places[key]["lineage"].split(",")[0] for iso, key in glottocode.items() if key in places}
    languages = sorted(facts(families), key=lambda language: language.code)
    write(
        FACTS.name, [field.name for field in fields(Language)], [astuple(x) for x in languages], FACTS.parent
    )
    codes = sorted({language.iso639_3 for language in languages})
    arrays = np.load(io.BytesIO(lang2vec.read("lang2vec/data/feature_predictions.npz")))
    rows = {str(code): row for row, code in enumerate(arrays["langs"])}
    features = [i for i, name in enumerate(arrays["feats"]) if str(name).startswith("S_")]
    table = [
        [code, *(f"{value:g}" for value in arrays["data"][rows[code], features, 0])]
        for code in codes
        if code in rows
    ]
    write("uriel_syntax_knn.csv", ["iso639_3", *map(str, arrays["feats"][features])], table)

    grambank = {row.pop("language_id"): row for row in read(urielplus, "grambank_data.csv")}
    known = {code: glottocode.get(INDIVIDUAL.get(code, code), "") for code in codes}
    names = list(next(iter(grambank.values())))
    write(
        "grambank.csv",
        ["iso639_3", *names],
        [
            [code, *(value(grambank[glotto][name]) for name in names)]
            for code, glotto in known.items()
            if glotto in grambank
        ],
    )
    write(
        "coordinates.csv",
        ["iso639_3", "latitude", "longitude"],
        [
            [code, places[glotto]["latitude"], places[glotto]["longitude"]]
            for code, glotto in known.items()
            if glotto in places and places[glotto]["latitude"]
        ],
    )


def facts(families: dict[str, str]) -> Iterator[Language]:
    """Yield the rows of language_facts.csv."""
    published = json.loads((ROOT / "tests/data/published_languages.json").read_text("utf-8"))
    written = " ".join(line for entry in published.values() for line in entry["codes"]).split()
    listed = {base_language(language_code(code)) for code in written}
    iso = {two: three for three, two in get_global("language_aliases").items() if len(three) > len(two)}
    for code in listed | set(LANGUAGES):
        three = MEMBERS.get(code) or iso.get(code, code)
        family = families.get(three) or FAMILIES.get(code, "unknown")
        new = Language(code, three, NAMES.get(code) or english_name(code), family, usual_script(code))
        yield LANGUAGES.get(code, new)


def value(text: str) -> str:
    """0, 1, or empty where Grambank has no answer."""
    return "" if text in ("", "?", "-1", "-1.0") else f"{float(text):g}"


def read(archive: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.TextIOWrapper(archive.open(URIELPLUS + name), encoding="utf-8")))


def write(name: str, header: list[str], rows: Sequence[Sequence[str]], folder: Path = OUT) -> None:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    print(f"{name}: {len(rows)} languages x {len(header) - 1}")


if __name__ == "__main__":
    main()
