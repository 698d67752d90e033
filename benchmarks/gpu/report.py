"""Write what a check measured after every figure, next to what was predicted; keep to the time of a part."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


class Clock:
    """How much of the allowed time is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(self._end - time.monotonic(), 0.0)

    def too_long(self, seconds: float) -> str | None:
        """Return why a measurement of this duration does not start; None if it fits."""
        if seconds <= self._end - time.monotonic():
            return None
        return f"would take about {seconds:.0f} s, {self.left:.0f} s are left"


class Report:
    """The JSON: facts, then for every part name -> figures, and in `failed` what did not hold."""

    def __init__(self, out: Path | None, facts: Figures) -> None:
        self.document: Figures = {**facts, "failed": []}
        self._out = out

    def extend(self, part: str, figures: Iterable[tuple[str, Figures]]) -> None:
        """Write the figures of a part, each as soon as it is there."""
        self.document[part] = {}
        began = time.monotonic()
        for name, values in figures:
            self.document[part][name] = values
            if values.get("passed") is False:
                self.document["failed"].append(f"{part}: {name}")
            print(f"{time.monotonic() - began:6.1f} s {part}: {name}: {json.dumps(values)}", file=sys.stderr)
            self.save()
        self.document[part]["seconds"] = {"of this part": round(time.monotonic() - began, 1)}
        self.save()

    def save(self) -> None:
        """Write the file, if one was named."""
        if self._out is not None:
            self._out.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")


def compared(error: float, limit: float) -> Figures:
    """Return an error, its limit, and whether it holds; NaN does not."""
    return {"error": error, "limit": limit, "passed": bool(error <= limit)}
