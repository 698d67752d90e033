"""A line about a temperature that does not fit the scores of the first steps."""

from __future__ import annotations

from typing import Any

import pytest

from hbt_dist.training.temperature_check import TemperatureCheck


def lines(first: int = 1, columns: int = 256, **figures: float) -> list[Any]:
    check = TemperatureCheck(columns)
    row = {"temperature": 0.05, "positive_score": 0.85, "negative_score": 0.35, "info_nce": 1.0, **figures}
    return [line for step in range(first, 21) if (line := check.line(step, row))]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        ({}, None),
        ({"positive_score": 0.87, "negative_score": 0.77}, "try 0.01, or"),  # an encoder trained at 0.01
        ({"positive_score": 0.87, "negative_score": 0.77, "temperature": 0.01}, None),
        ({"positive_score": 0.93, "negative_score": 0.93}, None),  # from scratch: nothing is known yet
        ({"info_nce": 0.001}, "raise loss.temperature (0.05)"),
    ],
)
def test_flat_and_saturated_scores(figures: dict[str, float], words: str | None) -> None:
    shown = lines(**figures)
    assert len(shown) == (words is not None)
    assert words is None or words in shown[0]
    assert lines(first=3, **figures) == [], "a resumed run is not checked again"
