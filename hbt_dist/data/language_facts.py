"""Look up facts about languages: individual ISO 639-3 code, family, main script, English name.

Families are the top-level groups of Glottolog; scripts are ISO 15924 codes of the usual written form in the
benchmarks. Macro-languages stand for the individual language that benchmarks mean by them (ar: Modern
Standard Arabic, zh: Mandarin, sw: Coastal Swahili, ms: Standard Malay, fa: Iranian Persian).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Language:
    """One row of the table."""

    code: str
    iso639_3: str
    name: str
    family: str
    script: str


_TABLE = """
af afr Afrikaans Indo-European Latn
am amh Amharic Afro-Asiatic Ethi
ar arb Arabic Afro-Asiatic Arab
az azj Azerbaijani Turkic Latn
be bel Belarusian Indo-European Cyrl
bg bul Bulgarian Indo-European Cyrl
bn ben Bengali Indo-European Beng
ca cat Catalan Indo-European Latn
cs ces Czech Indo-European Latn
cy cym Welsh Indo-European Latn
da dan Danish Indo-European Latn
de deu German Indo-European Latn
el ell Greek Indo-European Grek
en eng English Indo-European Latn
es spa Spanish Indo-European Latn
et est Estonian Uralic Latn
eu eus Basque Basque Latn
fa pes Persian Indo-European Arab
fi fin Finnish Uralic Latn
fr fra French Indo-European Latn
ga gle Irish Indo-European Latn
gl glg Galician Indo-European Latn
gu guj Gujarati Indo-European Gujr
ha hau Hausa Afro-Asiatic Latn
he heb Hebrew Afro-Asiatic Hebr
hi hin Hindi Indo-European Deva
hr hrv Croatian Indo-European Latn
hu hun Hungarian Uralic Latn
hy hye Armenian Indo-European Armn
id ind Indonesian Austronesian Latn
is isl Icelandic Indo-European Latn
it ita Italian Indo-European Latn
ja jpn Japanese Japonic Jpan
jv jav Javanese Austronesian Latn
ka kat Georgian Kartvelian Geor
kk kaz Kazakh Turkic Cyrl
km khm Khmer Austroasiatic Khmr
kn kan Kannada Dravidian Knda
ko kor Korean Koreanic Kore
lo lao Lao Tai-Kadai Laoo
lt lit Lithuanian Indo-European Latn
lv lvs Latvian Indo-European Latn
mk mkd Macedonian Indo-European Cyrl
ml mal Malayalam Dravidian Mlym
mn khk Mongolian Mongolic Cyrl
mr mar Marathi Indo-European Deva
ms zsm Malay Austronesian Latn
my mya Burmese Sino-Tibetan Mymr
nb nob Norwegian_Bokmål Indo-European Latn
ne npi Nepali Indo-European Deva
nl nld Dutch Indo-European Latn
no nob Norwegian Indo-European Latn
pa pan Punjabi Indo-European Guru
pl pol Polish Indo-European Latn
pt por Portuguese Indo-European Latn
qu quz Quechua Quechuan Latn
ro ron Romanian Indo-European Latn
ru rus Russian Indo-European Cyrl
sk slk Slovak Indo-European Latn
sl slv Slovenian Indo-European Latn
sq als Albanian Indo-European Latn
sr srp Serbian Indo-European Cyrl
sv swe Swedish Indo-European Latn
sw swh Swahili Atlantic-Congo Latn
ta tam Tamil Dravidian Taml
te tel Telugu Dravidian Telu
th tha Thai Tai-Kadai Thai
tl tgl Tagalog Austronesian Latn
tr tur Turkish Turkic Latn
uk ukr Ukrainian Indo-European Cyrl
ur urd Urdu Indo-European Arab
uz uzn Uzbek Turkic Latn
vi vie Vietnamese Austroasiatic Latn
xh xho Xhosa Atlantic-Congo Latn
yo yor Yoruba Atlantic-Congo Latn
zh cmn Chinese Sino-Tibetan Hans
zu zul Zulu Atlantic-Congo Latn
"""

LANGUAGES: dict[str, Language] = {
    code: Language(code, iso, name.replace("_", " "), family, script)
    for code, iso, name, family, script in (line.split() for line in _TABLE.strip().splitlines())
}

UNKNOWN = "unknown"


def describe(code: str) -> Language:
    """Return the table's row of a language, or a row of `unknown` if the table lacks it."""
    return LANGUAGES.get(code) or Language(code, UNKNOWN, code, UNKNOWN, UNKNOWN)
