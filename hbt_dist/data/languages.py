"""Spell every language with one code, for all spellings that data sets and people use.

A code is lower-case: ISO 639-1 where it exists, else ISO 639-3. `language_code` accepts

    codes            en, eng, EN, iw, cmn; a macrolanguage stands for its usual member (`arb` -> `ar`,
                     `cmn` -> `zh`, `nob` -> `no`), dialects with a code stay apart (`yue`, `arz`, `nn`)
    with a script    zho_Hant, kor_Hang, srp-Latn; the usual script is left out (`kor_Hang` -> `ko`)
    with a region    zh-TW, en_GB; a region that changes the script becomes the script (`zh-TW`, `zh-HK`,
                     `zho_Hant` -> `zh-hant`), the usual one is left out, any other stays (`en-gb`)
    of Wikipedia     simple, zh-yue, zh-min-nan, be-tarask
    English names    Bulgarian, chinese, "Haitian Creole", as CLDR has them (EXAMS, mMARCO, Mr. TyDi)
    private ones     x-name, for a language without a code

The tables are CLDR's (`languageAlias`, `likelySubtags`, English names), through Babel; exceptions are below.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Annotated, NamedTuple, TypeVar

from babel.core import Locale, get_global
from pydantic import AfterValidator

Value = TypeVar("Value")

_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|[0-9]{3}))?")
_PRIVATE = re.compile(r"x(-[a-z0-9]{1,8})+")

# CLDR disagrees here: benchmarks hold both of the codes that it merges (ajp and apc in FLORES, dtp and kzj in
# Tatoeba), or ISO 639-1 has a code that it replaces (tl, tw), or leaves two codes for one language (no, nb).
_ALIASES = {
    "ajp": "ajp", "ber": "ber", "fil": "tl", "kzj": "kzj", "nb": "no", "nob": "no", "pbt": "ps", "tgl": "tl",
    "tl": "tl", "tw": "tw", "twi": "tw",
}  # fmt: skip
_WIKIPEDIA = {
    "bat-smg": "sgs", "be-tarask": "be", "be-x-old": "be", "cbk-zam": "cbk", "fiu-vro": "vro",
    "roa-rup": "rup", "simple": "en", "zh-classical": "lzh", "zh-cmn": "zh", "zh-min-nan": "nan",
    "zh-yue": "yue",
}  # fmt: skip
_NAMES = {"bengali": "bn", "farsi": "fa", "mandarin": "zh", "panjabi": "pa", "uighur": "ug"}
_SCRIPTS = {"ber": "Latn", "mey": "Arab", "shi": "Arab"}  # as Tatoeba and NTREX have them
_SCRIPT_PARTS = {"Kore": ("Hang",), "Jpan": ("Hira", "Kana", "Hrkt"), "Hans": ("Hani",), "Arab": ("Aran",)}
_NO_LANGUAGE = frozenset({"mis", "mul", "und", "zxx"})

_NAMES_OF_FIELDS = """
aid ans cls cnt css did dev doc dup end err gid iso key lab len lex lng loc log lon mid msg neg ner num
old org par pic pid pos pre raw rel row sec sep seq set sha sid sim src sub sum tag tgt tid tit tmp top tts
txt uri val ver yes
"""
# Codes of languages without a benchmark that are far more often a field's name.
_FIELD_NAMES = frozenset(_NAMES_OF_FIELDS.split())
_SUSPECTS = """
abs arr bin bit bot cat chk col crc csv emb ext hit id ids in int lat lem low max med min mod mrr nbr net
new nid nil non nr one opt pro sig sil sml str trn ts tst two var vec vid wav www
"""
#: Codes of languages with data that may be a field's name, too: `question_id` is seldom Indonesian.
SUSPICIOUS = frozenset(_SUSPECTS.split())


class _Usual(NamedTuple):
    """What CLDR expects of a tag without script and region."""

    script: str
    region: str


@lru_cache(maxsize=4096)
def language_code(written: str) -> str:
    """Return the code that this package uses for the language `written`.

    Raises:
        ValueError: ISO 639 and CLDR don't know the language, its script or its region.
    """
    lowered = written.lower()
    if _PRIVATE.fullmatch(lowered):
        return lowered
    known = _WIKIPEDIA.get(lowered.replace("_", "-"))
    match = _TAG.fullmatch(written)
    if known is None and match is not None:
        known = _code_of_tag(*match.groups())
    if known is None:
        known = _codes_by_name().get(re.sub(r"[\s_-]+", " ", lowered))
    if known is None:
        raise ValueError(f"{written!r} is not a language code{_advice(written)}")
    return known


def is_language(written: str) -> bool:
    """Check whether `language_code` knows the language."""
    try:
        language_code(written)
    except ValueError:
        return False
    return True


def has_form_of_code(written: str) -> bool:
    """Check whether a word is written like a code, such as `xx` or `qaa_Latn`, and is not a field's name."""
    return _TAG.fullmatch(written) is not None and written.lower() not in _FIELD_NAMES


def base_language(code: str) -> str:
    """Return a code without script and region: `zh-hant` -> `zh`."""
    return code if code.startswith("x-") else code.partition("-")[0]


def english_name(code: str) -> str:
    """Return CLDR's English name of a code; "" if it has none."""
    language, *rest = code.split("-")
    tag = "_".join([language, *(part.capitalize() if len(part) == 4 else part.upper() for part in rest)])
    return str(_english().languages.get(tag, ""))


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


def language_pair(written: str) -> tuple[str, str]:
    """Return the codes of a pair such as `en-fi`, `zh-tw-en` or `en->fi`; the two may be one language.

    Raises:
        ValueError: no pair of languages, or several: `pt-br-fr` (Portuguese and Breton, or French?).
    """
    first, arrow, second = written.partition("->")
    if arrow:
        return language_code(first.strip()), language_code(second.strip())
    parts = written.split("-")
    splits = [("-".join(parts[:i]), "-".join(parts[i:])) for i in range(1, len(parts))]
    pairs = {
        (language_code(first), language_code(second)): f"{first}->{second}"
        for first, second in splits
        if is_language(first) and is_language(second)
    }
    if len(pairs) > 1:
        pairs = {pair: text for pair, text in pairs.items() if "-".join(pair) == written} or pairs
    if len(pairs) != 1:
        several = " or ".join(pairs.values())
        hint = (
            f"means {several}: write the pair with ->"
            if several
            else "is not a pair of languages such as en-fi"
        )
        raise ValueError(f"{written!r} {hint}")
    return next(iter(pairs))


def pair_label(written: str) -> str:
    """Return a pair as settings hold it: `eng-nor` -> `en-no`."""
    return "-".join(language_pair(written))


def spelled_keys(value: Mapping[str, Value], spell: Callable[[str], str]) -> dict[str, Value]:
    """Return a mapping by language or pair with every key as this package spells it.

    Raises:
        ValueError: a key names no language, or two keys name one.
    """
    spelled = [spell(key) for key in value]
    twice = sorted({key for key in spelled if spelled.count(key) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is named more than once: {', '.join(value)}")
    return dict(zip(spelled, value.values(), strict=True))


def _code_of_tag(language: str, script: str | None, region: str | None) -> str | None:
    """Return the code of the parts of a tag; None if CLDR lacks one of them."""
    name = language.lower()
    if name in _FIELD_NAMES:
        return None
    alias = _ALIASES.get(name) or get_global("language_aliases").get(name, name)
    name, *implied = alias.split("_")
    name = _ALIASES.get(name, name)
    if name not in _languages():
        return None
    for part in implied:  # sh is sr_Latn, prs is fa_AF
        script, region = (script or part, region) if len(part) == 4 else (script, region or part)
    script, region = (script or "").capitalize(), (region or "").upper()
    region = get_global("territory_aliases").get(region, [region])[0]
    if (script and script not in _english().scripts) or (region and region not in _english().territories):
        return None
    return "-".join(part.lower() for part in (name, *_unusual(name, script, region)) if part)


def _unusual(language: str, script: str, region: str) -> tuple[str, str]:
    """Return script and region of a tag, each "" where CLDR expects it."""
    usual = _usual(language)
    if region and not script:
        script = _usual(f"{language}_{region}").script
    if script and script != usual.script and script not in _SCRIPT_PARTS.get(usual.script, ()):
        return script, ""
    implied = _usual(f"{language}_{region}").script
    kept = region != usual.region and implied in ("", usual.script)
    return "", region if kept else ""


def usual_script(language: str) -> str:
    """Return the script (ISO 15924) in which a language is usually written; "" if CLDR doesn't know."""
    return _usual(language).script


def script_parts(code: str) -> tuple[str, ...]:
    """Return the scripts of Unicode characters in which a language is written; empty if unknown.

    Args:
        code: as `language_code` returns it, `zh-hant` too.
    """
    language, *rest = code.split("-")
    written = next((part.capitalize() for part in rest if len(part) == 4), "") or usual_script(language)
    parts = {
        "Jpan": ("Hira", "Kana", "Hani"),
        "Kore": ("Hang", "Hani"),
        "Hans": ("Hani",),
        "Hant": ("Hani",),
        "Aran": ("Arab",),
    }
    return parts.get(written, (written,) if written else ())


def _usual(tag: str) -> _Usual:
    likely = get_global("likely_subtags")
    merged = get_global("language_aliases").get(tag, "")  # ajp has the script of apc
    _, script, region = (*likely.get(tag, likely.get(merged, "")).split("_"), "", "")[:3]
    return _Usual(_SCRIPTS.get(tag, script), region)


@lru_cache(maxsize=1)
def _languages() -> frozenset[str]:
    """Return the languages that CLDR knows, and those of the exceptions."""
    subtags = {tag.partition("_")[0] for tag in get_global("likely_subtags")}
    named = {str(tag).partition("_")[0] for tag in _english().languages}
    return frozenset((subtags | named | set(_ALIASES.values())) - _NO_LANGUAGE)


@lru_cache(maxsize=1)
def _codes_by_name() -> dict[str, str]:
    """Return lower-case English name -> code."""
    tags = {name.lower(): _TAG.fullmatch(tag) for tag, name in _english().languages.items()}
    codes = {name: _code_of_tag(*match.groups()) for name, match in tags.items() if match}
    return {**{name: code for name, code in codes.items() if code}, **_NAMES}


def _english() -> Locale:
    return Locale("en")


def _advice(written: str) -> str:
    """Return the nearest language, and the way out for a language without a code."""
    lowered = written.lower()
    local = str(get_global("likely_subtags").get(f"und_{written.upper()}", "")).partition("_")[0]  # jp -> ja
    similar = [local] if local else difflib.get_close_matches(lowered, _codes_by_name(), n=1, cutoff=0.8)
    nearest = language_code(similar[0]) if similar else ""
    advice = f"; did you mean {nearest} ({english_name(nearest)})?" if nearest else " such as en, fi or zh"
    private = f"x-{lowered}"
    if not _PRIVATE.fullmatch(private):
        return advice
    start = " A" if nearest else "; a"
    return f"{advice}{start} language without a code is written {private}"


#: Types of settings: languages in any spelling, held as this package spells them.
LanguageCode = Annotated[str, AfterValidator(language_code)]
LanguageCodes = Annotated[tuple[str, ...], AfterValidator(language_codes)]
