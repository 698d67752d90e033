"""The languages of public benchmarks: every pair of benchmarks agrees, and facts about each are found.

published_languages.json has the codes that the benchmarks publish, with their sources.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hbt_dist.comparison.typology import DISTANCES, language_distances
from hbt_dist.data.language_facts import UNKNOWN, describe, was_seen
from hbt_dist.data.languages import _FIELD_NAMES, base_language, language_code

LISTS = json.loads(Path(__file__).with_name("published_languages.json").read_text("utf-8"))
CODES = {name: " ".join(entry["codes"]).split() for name, entry in LISTS.items()}
ALL = sorted({language_code(code) for codes in CODES.values() for code in codes})

# ISO 639-2/T codes and names of languages that benchmarks spell differently, found by hand: an independent
# reference for the agreement. Any spelling of a line is one language.
SAME = [
    "zho_Hant zho-TW zh_tw zh_hk", "zho_Hans zho-CN zh_cn cmn zh chinese zho", "kor_Hang kor ko korean",
    "als_Latn sqi sq Albanian", "arb_Arab arb ara ar arabic Arabic", "azj_Latn aze-Latn aze az",
    "pes_Arab fas fa pes",
    "nob_Latn nob no", "tgl_Latn fil tgl tl", "swh_Latn swa sw swh swahili", "zsm_Latn msa ms zsm",
    "lvs_Latn lav lvs", "khk_Cyrl mon", "npi_Deva nep", "plt_Latn mlg", "uzn_Latn uzb", "gaz_Latn orm",
    "pbt_Arab pus", "kmr_Latn kmr kur", "ydd_Hebr yid", "ckb_Arab ckb-Arab", "srp_Cyrl srp-Cyrl srp Serbian",
    "snd_Arab snd-Arab", "sna_Latn sna-Latn", "tgk_Cyrl tgk-Cyrl", "prs_Arab prs", "yue_Hant yue",
    "eng_Latn eng-US en",
    "spa_Latn spa es Spanish", "fin_Latn fin fi finnish", "tir_Ethi tir", "est_Latn est et",
]  # fmt: skip
# Two spellings of one language in one benchmark: the plainer one is read.
COINCIDE = {"NTREX-128": ["por", "por-BR"], "MKQA": ["zh_hk", "zh_tw"], "XTREME": ["fa", "fa-IR"]}
# No source has them: the distance is unknown.
WITHOUT = {
    "syntax": {"ber": "a collective code"},
    "geography": dict.fromkeys(("ie", "io", "lfn", "nov", "tzl"), "constructed")
    | {"ber": "a collective code"},
}


def test_the_lists_are_whole() -> None:
    sizes = {name: len(codes) for name, codes in CODES.items()}
    assert sizes == {
        "Belebele": 122, "FLORES-200": 204, "NTREX-128": 127, "MKQA": 26, "Tatoeba": 113, "MIRACL": 18,
        "Mr. TyDi": 11, "NeuCLIR": 3, "mMARCO": 14, "XQuAD": 12, "MLQA": 7, "Mewsli-X": 50, "EXAMS": 16,
        "XTREME": 41,
    }  # fmt: skip
    assert all(len(set(codes)) == len(codes) and LISTS[name]["source"] for name, codes in CODES.items())


def test_no_two_languages_of_a_benchmark_coincide() -> None:
    coinciding = {}
    for name, codes in CODES.items():
        read = [language_code(code) for code in codes]
        twice = [code for code, language in zip(codes, read, strict=True) if read.count(language) > 1]
        coinciding |= dict.fromkeys([name] if twice else [], twice)
    assert coinciding == COINCIDE


@pytest.mark.parametrize("spellings", SAME)
def test_benchmarks_agree_on_a_language(spellings: str) -> None:
    assert len({language_code(code) for code in spellings.split()}) == 1
    published = {code for codes in CODES.values() for code in codes}
    assert len(published & set(spellings.split())) > 1


def test_codes_agree_with_the_tags_of_mteb() -> None:
    """MTEB gives each code its ISO 639-3 code and script, by hand: any two benchmarks agree."""
    disagree = {
        (code, tag)
        for name, entry in LISTS.items()
        if "tags" in entry
        for code, tag in zip(CODES[name], " ".join(entry["tags"]).split(), strict=True)
        if language_code(code) != language_code(tag)
    }
    assert disagree == {("max", "max-Deva"), ("ber", "ber-Tfng")}  # Latin, by CLDR and by the texts


def test_every_language_has_facts() -> None:
    facts = [describe(code) for code in ALL]
    assert [fact.code for fact in facts] == ALL
    assert not [
        fact for fact in facts if UNKNOWN in (fact.iso639_3, fact.family, fact.script) or not fact.name
    ]
    assert not {fact.code for fact in facts if fact.name == fact.code}


@pytest.mark.parametrize("source", DISTANCES)
def test_every_language_has_distances(source: str) -> None:
    """Grambank lacks 91 of the 234 languages; two more have too few features in common with English."""
    others = {code: "en" if base_language(code) != "en" else "fi" for code in ALL}
    distances = {code: language_distances([code, second], source)[0, 1] for code, second in others.items()}
    unknown = {base_language(code) for code, distance in distances.items() if math.isnan(distance)}
    if source == "grambank":
        assert len(unknown) == 93
    else:
        assert unknown == set(WITHOUT.get(source, {}))


def test_a_code_with_script_or_region_has_the_facts_of_its_language() -> None:
    facts = [
        (x.code, x.name, x.family, x.script, x.iso639_3)
        for x in map(describe, ("zh-hant", "en-gb", "ar-latn"))
    ]
    assert facts == [
        ("zh-hant", "Traditional Chinese", "Sino-Tibetan", "Hant", "cmn"),
        ("en-gb", "British English", "Indo-European", "Latn", "eng"),
        ("ar-latn", "Arabic (latn)", "Afro-Asiatic", "Latn", "arb"),
    ]
    assert describe("x-naali") == describe("x-naali").__class__(
        "x-naali", UNKNOWN, "x-naali", UNKNOWN, UNKNOWN
    )
    assert was_seen("zh-hant", ["en", "zh"]) is True
    assert was_seen("ko", ["en", "zh"]) is False
    assert was_seen("ko", None) is None


def test_no_field_name_is_a_language_of_a_benchmark() -> None:
    assert not _FIELD_NAMES & {code.lower() for codes in CODES.values() for code in codes}
