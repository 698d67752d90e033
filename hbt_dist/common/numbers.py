"""Numbers as text, alike on every page.

Figures between 0 and 1, and their differences, go without the zero before the point, as in papers: a table of
them is narrower, and fits a phone. Ranks have one digit and keep it. Probabilities have three.
"""

from __future__ import annotations

import re
from math import isfinite


def plain(value: float | None, digits: int = 4) -> str:
    """Such as ``.0840``; ``-`` for none."""
    return "-" if value is None or not isfinite(value) else _short(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 4) -> str:
    """Such as ``+.0196``, ``0`` for what rounds to it, and ``-`` for none."""
    if value is None or not isfinite(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return "0" if float(text) == 0 else _short(text)


def span(low: float | None, high: float | None, digits: int = 4) -> str:
    """An interval such as ``[+.0114, +.0279]``; ``-`` for none."""
    if low is None or high is None or not isfinite(low + high):
        return "-"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(p: float | None) -> str:
    """Such as ``.012``, ``<.001``; ``-`` where nothing was tested."""
    return "<.001" if p is not None and p < 0.0005 else plain(p, 3)


def p_clause(p: float | None) -> str:
    """The same in a sentence: ``p = .012``, ``p <.001``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _short(text: str) -> str:
    """Without the zero before the point, where two digits or more follow it."""
    return re.sub(r"^([+-]?)0(?=\.\d\d)", r"\1", text)
