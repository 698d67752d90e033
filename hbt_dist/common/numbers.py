"""Format numbers, intervals and p values as text, alike on every page and in every message."""

from __future__ import annotations

from math import isfinite


def digits_of(measure: str) -> int:
    """Return the digits of a measure after the point: one for ranks, three for shares."""
    return 1 if measure in ("rank_distance", "max_at_r") else 3


def plain(value: float | None, digits: int = 3) -> str:
    """Format a number such as ``0.084``; ``-`` for None and NaN."""
    return "-" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """Format a difference such as ``+0.020``; ``0`` if it rounds to zero, ``-`` for None and NaN."""
    if value is None or not isfinite(value):
        return "-"
    text = f"{value:+.{digits}f}"
    return "0" if float(text) == 0 else text


def span(low: float | None, high: float | None, digits: int = 3) -> str:
    """Format an interval such as ``[+0.011, +0.028]``; ``-`` for None and NaN."""
    if low is None or high is None or not isfinite(low + high):
        return "-"
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(p: float | None) -> str:
    """Format a probability such as ``0.012`` or ``<0.001``; ``-`` if nothing was tested."""
    return "<0.001" if p is not None and p < 0.0005 else plain(p, 3)


def p_clause(p: float | None) -> str:
    """Format a probability for a sentence: ``p = 0.012``, ``p <0.001``."""
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"
