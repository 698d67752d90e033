"""Numbers as text."""

from __future__ import annotations

import math

from hbt_dist.common.numbers import digits_of, p_clause, p_value, plain, signed, span
from hbt_dist.pages.html import is_numeric


def test_numbers_have_a_leading_zero() -> None:
    assert [signed(0.0196), signed(-1.25), signed(1e-6), signed(-1e-6)] == ["+0.020", "-1.250", "0", "0"]
    assert [plain(0.5), plain(-0.5), plain(0.0), plain(1.0)] == ["0.500", "-0.500", "0.000", "1.000"]
    assert span(-0.1, 0.00001) == "[-0.100, 0]"


def test_ranks_keep_every_digit() -> None:
    assert [signed(-1400.6, 1), signed(10.5, 1), signed(0.5, 1)] == ["-1400.6", "+10.5", "+0.5"]
    assert [plain(120.04, 1), plain(0.4, 1)] == ["120.0", "0.4"]
    assert span(-10.0, 20.25, 1) == "[-10.0, +20.2]"


def test_shares_have_three_digits_and_ranks_one() -> None:
    assert [digits_of(name) for name in ("map", "rank_distance", "max_at_r")] == [3, 1, 1]


def test_probabilities() -> None:
    assert [p_value(p) for p in (0.0004, 0.0005, 0.0123, 1.0)] == ["<0.001", "0.001", "0.012", "1.000"]
    assert [p_clause(0.0001), p_clause(0.05)] == ["p <0.001", "p = 0.050"]


def test_missing_numbers_are_dashes() -> None:
    assert [text(value) for text in (plain, signed, p_value) for value in (None, math.nan)] == ["-"] * 6
    assert [span(None, None), span(math.nan, 0.1), span(0.1, math.inf)] == ["-"] * 3


def test_columns_of_numbers() -> None:
    assert is_numeric(["-", "trivial", "0.5", "+0.1", "<0.001", "[-0.1, 0.2]", "12 and 3"])
    assert not is_numeric(["0.5", "in all languages"])
