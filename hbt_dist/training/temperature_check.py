"""Check in the first steps whether the temperature fits the scores of the start model.

InfoNCE learns from differences of scores divided by the temperature. Far below ln(columns) they cannot single
out the positive passage, however well the model ranks (flat); far above, every row is solved (saturated).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

_STEPS = 10
_SATURATED = 0.01  # InfoNCE in nats
_KNOWS = 0.02  # difference of mean scores of a model that has learned to retrieve
_FLAT = 0.5  # of ln(columns)
_ENOUGH = 1.4  # of ln(columns): a difference with which the positive passage gets most of the softmax


class TemperatureCheck:
    """Gather the first steps of a run.

    Args:
        columns: passages of a global batch.
    """

    def __init__(self, columns: int) -> None:
        self._needed = log(max(columns, 2))
        self._rows: list[Mapping[str, Any]] = []

    def line(self, step: int, figures: Mapping[str, Any]) -> str | None:
        """Return a line at the last of the first steps if the temperature does not fit."""
        if step > _STEPS:
            return None
        self._rows.append(figures)
        if step < _STEPS or len(self._rows) < _STEPS:
            return None
        loss, temperature = self._mean("info_nce"), self._mean("temperature")
        difference = self._mean("positive_score") - self._mean("negative_score")
        if loss < _SATURATED:
            return (
                f"InfoNCE of the first {_STEPS} steps is {loss:.2g}: every positive passage wins already; "
                f"raise loss.temperature ({temperature:g}), or add hard negatives"
            )
        if _KNOWS < difference < _FLAT * self._needed * temperature:
            fitting = difference / (_ENOUGH * self._needed)
            return (
                f"scores are flat for loss.temperature {temperature:g}: positive passages score "
                f"{difference:.2f} above the others; try {fitting:.1g}, or the start model's temperature"
            )
        return None

    def _mean(self, name: str) -> float:
        return sum(row[name] for row in self._rows) / len(self._rows)
