"""Explain `training.epochs`, which run files do not have: the steps that an epoch takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def steps_instead(run: dict[str, Any]) -> str:
    """Return an error text for a run file with `training.epochs`, with the number of steps if it is known.

    Args:
        run: the run file as plain data, before its validation.
    """
    epochs, batch = run["training"]["epochs"], (run.get("batches") or {}).get("global_batch_size")
    rule = "steps = epochs x examples / batches.global_batch_size"
    problem = f"training.epochs: expected training.steps, got epochs, which differ by kind of batch; {rule}"
    examples = _lines(run)
    if examples and all(isinstance(number, int | float) and number for number in (epochs, batch)):
        steps = max(1, round(epochs * examples / batch))
        return f"{problem}: write steps: {steps} for {epochs:g} epochs of {examples:,} lines"
    return f"{problem}; hbt-dist train RUN.yaml --dry-run prints the epochs of a number of steps"


def _lines(run: dict[str, Any]) -> int:
    """Return the lines of the data's files; 0 if a source is not a local file of JSON lines."""
    sources = (run.get("data") or {}).get("sources") or []
    paths = [Path(str(source.get("path", ""))) for source in sources if isinstance(source, dict)]
    if not paths or not all(path.suffix == ".jsonl" and path.is_file() for path in paths):
        return 0
    return sum(_count(path) for path in paths)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
