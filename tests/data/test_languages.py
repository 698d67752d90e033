"""One language has one code, however data sets and people write it."""

from __future__ import annotations

import re

import pytest

from hbt_dist.data.languages import (
    _FIELD_NAMES,
    SUSPICIOUS,
    _languages,
    base_language,
    is_language,
    language_code,
    language_codes,
    language_pair,
)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en", "en"), ("EN", "en"), ("eng", "en"), ("arb", "ar"), ("ces", "cs"), ("ell", "el"), ("est", "et"),
        ("fin", "fi"), ("swa", "sw"), ("zho-CN", "zh"), ("zh_cn", "zh"), ("zho_Hans", "zh"), ("cmn", "zh"),
        ("zho_Hant", "zh-hant"), ("zho-TW", "zh-hant"), ("zh_hk", "zh-hant"), ("zh-Hant-HK", "zh-hant"),
        ("zh-yue", "yue"), ("yue_Hant", "yue"), ("zh-min-nan", "nan"),
        ("kor_Hang", "ko"), ("ko-Kore", "ko"), ("urd-Aran", "ur"),
        ("arb_Latn", "ar-latn"), ("fin_Latn", "fi"), ("srp_Cyrl", "sr"), ("srp_Latn", "sr-latn"),
        ("sh", "sr-latn"), ("sr-ME", "sr-latn"), ("pa_PK", "pa-arab"),
        ("pt-BR", "pt"), ("pt_PT", "pt-pt"), ("eng-US", "en"), ("en-UK", "en-gb"), ("es-419", "es-419"),
        ("nob", "no"), ("nor", "no"), ("nno", "nn"), ("tgl", "tl"), ("fil", "tl"), ("iw", "he"),
        ("twi", "tw"), ("aka", "ak"), ("ajp", "ajp"), ("apc", "apc"), ("kzj", "kzj"), ("dtp", "dtp"),
        ("prs", "fa-af"), ("pbt", "ps"), ("fuc", "ff"), ("shi", "shi"), ("tir_ET", "ti"),
        ("simple", "en"), ("be-tarask", "be"), ("Bulgarian", "bg"), ("chinese", "zh"),
        ("Haitian_Creole", "ht"), ("Norwegian Bokmål", "no"), ("x-Naali", "x-naali"),
        ("sme", "se"), ("kpv", "kv"), ("myv", "myv"),
    ],
)  # fmt: skip
def test_a_language_has_one_code(written: str, code: str) -> None:
    assert language_code(written) == code
    assert language_code(code) == code
    assert is_language(written)


@pytest.mark.parametrize(
    "written",
    ["", "e", "en-", "12", "en fi", "../x", "_id", "type", "lng", "src", "num", "len", "key", "url", "xx",
     "qaa", "mul", "und", "en_xx", "en_Abcd", "x_id"],
)  # fmt: skip
def test_other_words_are_refused(written: str) -> None:
    assert not is_language(written)
    with pytest.raises(ValueError, match="not a language code"):
        language_code(written)


@pytest.mark.parametrize(
    ("written", "advice"),
    [
        ("jp", r"did you mean ja \(Japanese\)\?"),
        ("cz", r"did you mean cs \(Czech\)\?"),
        ("Finish", r"did you mean fi \(Finnish\)\?"),
        ("xx", "language without a code is written x-xx"),
        ("qaa", "language without a code is written x-qaa"),
    ],
)
def test_the_refusal_names_the_nearest_language_and_a_way_out(written: str, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        language_code(written)


def test_names_of_fields_are_codes_that_iso_knows() -> None:
    """Others are refused anyway."""
    assert not {
        name for name in _FIELD_NAMES if name not in _languages() | {"cls", "src", "sum", "tid", "tmp"}
    }
    assert {name for name in SUSPICIOUS if not is_language(name)} == set()


def test_the_language_of_a_code() -> None:
    assert [base_language(code) for code in ("zh-hant", "en-gb", "fi", "x-naali")] == [
        "zh",
        "en",
        "fi",
        "x-naali",
    ]


@pytest.mark.parametrize(
    ("written", "pair"),
    [
        ("en-fi", ("en", "fi")), ("eng-nor", ("en", "no")), ("zh-tw-en", ("zh-hant", "en")),
        ("en-zh-tw", ("en", "zh-hant")), ("zh-hant-zh", ("zh-hant", "zh")), ("en-gb-en", ("en-gb", "en")),
        ("en-in-fi", ("en-in", "fi")), ("pt-br->fr", ("pt", "fr")), ("pt -> br-fr", ("pt", "br")),
        ("x-naali-en", ("x-naali", "en")), ("en-en", ("en", "en")),
    ],
)  # fmt: skip
def test_pairs(written: str, pair: tuple[str, str]) -> None:
    assert language_pair(written) == pair
    assert language_pair("-".join(pair)) == pair


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("pt-br-fr", "'pt-br-fr' means pt->br-fr or pt-br->fr: write the pair with ->"),
        ("en", "'en' is not a pair of languages such as en-fi"),
        ("en-xx", "'en-xx' is not a pair of languages such as en-fi"),
        ("en->xx", "'xx' is not a language code"),
    ],
)
def test_other_pairs_are_refused(written: str, found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(found)):
        language_pair(written)


def test_a_language_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="fi is named more than once"):
        language_codes(["fi", "en", "fin"])
