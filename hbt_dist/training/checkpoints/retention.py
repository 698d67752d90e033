"""Decide which checkpoints of a run to keep: the newest, every multiple of `keep_every`, and the best."""

from __future__ import annotations

from typing import Any

from hbt_dist.common.files import read_json_lines
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.settings import TrainingSettings


def removable(steps: list[int], training: TrainingSettings, folder: RunFolder) -> set[int]:
    """Return the steps (of `steps`, in order) whose checkpoints need not be kept.

    With `keep_best`, a checkpoint that is still to be measured stays: it may be the best. One that was left
    out or could not be measured does not stay.
    """
    candidates = set(steps[: -training.keep_checkpoints])
    if training.keep_every is not None:
        candidates = {step for step in candidates if step % training.keep_every}
    if training.keep_best is not None:
        lines = validation_lines(folder)
        candidates &= {line["step"] for line in lines} - {best_step(lines, training.keep_best)}
    return candidates


def best_step(lines: list[dict[str, Any]], metric: str) -> int | None:
    """Return the step with the best figure on the first benchmark; the earliest of equal steps."""
    lines = [line for line in lines if metric in line]
    scores = {line["step"]: line[metric] for line in lines if line["benchmark"] == lines[0]["benchmark"]}
    return min(scores, key=lambda step: (-scores[step], step), default=None)


def validation_lines(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the figures of the run's checkpoints: the newest entry per step and benchmark.

    Raises:
        UserError: a line is not JSON.
    """
    lines = read_json_lines(folder.validation)
    return list({(line["step"], line["benchmark"]): line for line in lines}.values())
