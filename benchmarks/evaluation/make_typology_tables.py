"""Make hbt_dist/evaluation/data/*.csv from the wheels of lang2vec 1.1.2 and urielplus 1.3.2.

    pip download --no-deps lang2vec==1.1.2 urielplus==1.3.2
    python benchmarks/evaluation/make_typology_tables.py lang2vec-*.whl urielplus-*.whl

Reads the data inside the wheels and imports neither package.
"""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from hbt_dist.data.language_facts import LANGUAGES

OUT = Path(__file__).parents[2] / "hbt_dist" / "comparison" / "data"
INDIVIDUAL = {"est": "ekk"}  # URIEL has Estonian under its macro-language's code, Glottolog does not
URIELPLUS = "urielplus/database/urielplus_csvs/"


def main() -> None:
    lang2vec, urielplus = (zipfile.ZipFile(path) for path in sys.argv[1:3])
    codes = sorted({language.iso639_3 for language in LANGUAGES.values()})
    arrays = np.load(io.BytesIO(lang2vec.read("lang2vec/data/feature_predictions.npz")))
    rows = {str(code): row for row, code in enumerate(arrays["langs"])}
    features = [i for i, name in enumerate(arrays["feats"]) if str(name).startswith("S_")]
    table = [
        [code, *(f"{value:g}" for value in arrays["data"][rows[code], features, 0])]
        for code in codes
        if code in rows
    ]
    write("uriel_syntax_knn.csv", ["iso639_3", *map(str, arrays["feats"][features])], table)

    glottocode = {row["iso_code"]: row["glottocode"] for row in read(urielplus, "uriel_glottocode_map.csv")}
    places = {row["language_id"]: row for row in read(urielplus, "lang_fam_geo.csv")}
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


def value(text: str) -> str:
    """0, 1, or empty where Grambank has no answer."""
    return "" if text in ("", "?", "-1", "-1.0") else f"{float(text):g}"


def read(archive: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.TextIOWrapper(archive.open(URIELPLUS + name), encoding="utf-8")))


def write(name: str, header: list[str], rows: list[list[str]]) -> None:
    OUT.mkdir(exist_ok=True)
    with (OUT / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    print(f"{name}: {len(rows)} languages x {len(header) - 1}")


if __name__ == "__main__":
    main()
