"""Which checkpoints of a run may be removed: all but the newest ones, every so-manieth, and the best one."""

from __future__ import annotations

import json
from typing import Any

from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.settings import TrainingSettings


def removable(steps: list[int], training: TrainingSettings, folder: RunFolder) -> set[int]:
    """Of the steps that have a checkpoint (in order), those that need not stay.

    With `keep_best`, what has not been measured yet stays too: it may be the best. What was left out,
    or could not be measured, does not.
    """
    candidates = set(steps[: -training.keep_checkpoints])
    if training.keep_every is not None:
        candidates = {step for step in candidates if step % training.keep_every}
    if training.keep_best is not None:
        lines = validation_lines(folder)
        best = best_step(lines, training.keep_best)
        candidates = {step for step in candidates if step != best and any(x["step"] == step for x in lines)}
    return candidates


def best_step(lines: list[dict[str, Any]], metric: str) -> int | None:
    """The step with the best figure on the first benchmark; the earliest of equals."""
    first = next((line["benchmark"] for line in lines if metric in line), None)
    scores = {line["step"]: line[metric] for line in lines if metric in line and line["benchmark"] == first}
    return min(scores, key=lambda step: (-scores[step], step), default=None)


def validation_lines(folder: RunFolder) -> list[dict[str, Any]]:
    """What was measured of the run's checkpoints: one entry per step and benchmark, the newest counts."""
    if not folder.validation.is_file():
        return []
    found: dict[tuple[int, str], dict[str, Any]] = {}
    for text in folder.validation.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
            found[line["step"], line["benchmark"]] = line
        except (ValueError, KeyError, TypeError):
            continue  # the last line of a killed process
    return list(found.values())
