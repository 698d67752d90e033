from __future__ import annotations

import pytest

from hbt_dist.data.languages import language_code, language_codes


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en", "en"), ("EN", "en"), ("eng", "en"), ("arb", "ar"), ("ces", "cs"), ("ell", "el"), ("est", "et"),
        ("fin", "fi"), ("swa", "sw"), ("zho-CN", "zh"), ("zh_cn", "zh"), ("zho_Hans", "zh"),
        ("zho_Hant", "zh-hant"),
        ("zho-TW", "zh-tw"), ("arb_Latn", "ar-latn"), ("fin_Latn", "fi"), ("srp_Cyrl", "sr"),
        ("pt_PT", "pt-pt"),
        ("sme", "se"), ("kpv", "kv"), ("myv", "myv"),
    ],
)  # fmt: skip
def test_one_spelling(written: str, code: str) -> None:
    assert language_code(written) == code
    assert language_code(code) == code


@pytest.mark.parametrize("written", ["", "e", "english", "en-", "12", "en fi", "../x", "_id"])
def test_other_words_are_refused(written: str) -> None:
    with pytest.raises(ValueError, match="not a language code"):
        language_code(written)


def test_a_language_named_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="fi is named more than once"):
        language_codes(["fi", "en", "fin"])
