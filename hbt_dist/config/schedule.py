"""Define a number of the run file that changes with the optimizer step."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings

Number = Annotated[float, Field(ge=0)]


class Schedule(Settings):
    """A number that changes with the optimizer step: from `start` to `end`, or in steps."""

    schedule: Literal["linear", "cosine", "steps"] = Field(description="Shape of the change.")
    start: float | None = Field(
        None,
        ge=0,
        description="Value at step `from_step` and before; for linear and cosine (default: none).",
    )
    end: float | None = Field(
        None, ge=0, description="Value at the end and after; for linear and cosine (default: none)."
    )
    from_step: int = Field(0, ge=0, description="Step at which the change begins (linear, cosine).")
    over_steps: int | None = Field(
        None, ge=1, description="Steps that the change takes; for linear and cosine (default: none)."
    )
    values: dict[int, Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description="First step of each value, 0 included, such as {0: 1.0, 1000: 0.5}; for steps "
        "(default: none).",
    )

    @model_validator(mode="after")
    def _complete(self) -> Schedule:
        ramp = (self.start, self.end, self.over_steps)
        if self.schedule == "steps":
            if self.values is None or ramp != (None, None, None) or self.from_step:
                raise ValueError("a schedule in steps has `values` and nothing else: {0: 1.0, 1000: 0.5}")
            if 0 not in self.values or min(self.values) < 0:
                raise ValueError(f"`values` must begin with step 0, found {sorted(self.values)}")
        elif None in ramp or self.values is not None:
            raise ValueError(
                f"a {self.schedule} schedule has `start`, `end` and `over_steps`, and no `values`"
            )
        return self

    def at(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the value at each step: (n,) -> (n,)."""
        if self.values is not None:
            firsts = np.array(sorted(self.values), np.int64)
            levels = np.array([self.values[int(first)] for first in firsts], np.float64)
            return levels[np.searchsorted(firsts, steps, side="right") - 1]
        start, end = self._levels().values()
        done = np.clip((steps - self.from_step) / (self.over_steps or 1), 0.0, 1.0)
        if self.schedule == "cosine":
            done = (1.0 - np.cos(np.pi * done)) / 2.0
        return start + (end - start) * done

    def extremes(self) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        levels = self._levels().values()
        return min(levels), max(levels)

    def complement(self) -> Schedule:
        """Return one minus this schedule."""
        levels = {name: 1.0 - value for name, value in self._levels().items()}
        return self.model_copy(update=levels if self.values is None else {"values": levels})

    def _levels(self) -> dict[Any, float]:
        """Return the values by step; without them the start and the end."""
        ends = {"start": self.start, "end": self.end}
        return self.values or {name: value for name, value in ends.items() if value is not None}

    def moments(self) -> set[int]:
        """Return the steps between which the value changes in one direction or not at all."""
        return {0, self.from_step, self.from_step + (self.over_steps or 0), *(self.values or ())}


def at_steps(value: float | Schedule, steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a number, which may have a schedule, at each step: (n,) -> (n,)."""
    return value.at(steps) if isinstance(value, Schedule) else np.full(len(steps), value, np.float64)
