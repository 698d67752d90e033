"""Recognise characters that show nothing: format marks (U+200B, U+FEFF, U+00AD), controls, fillers."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache

#: Letters and marks that show nothing: fillers of Hangul and Khmer, variation selectors, the empty Braille.
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"


def without_format(text: str) -> str:
    """Return the text without format characters (category Cf), such as U+200C, U+200F and the soft hyphen."""
    return text if text.isprintable() else _patterns()[0].sub("", text)


def is_blank(text: str) -> bool:
    """Check whether a text shows nothing."""
    if "!" <= text[:1] <= "~":  # most texts
        return False
    return bool(_patterns()[1].fullmatch(text))


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of format characters, and of all that show nothing."""
    categories = {"Cf": "", "Cc": ""}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category in categories:
            categories[category] += re.escape(chr(code))
    return re.compile(f"[{categories['Cf']}]+"), re.compile(rf"[\s{''.join(categories.values())}{_FILLERS}]*")
