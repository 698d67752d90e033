"""List the settings in which two resolved run files differ."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import yaml

from hbt_dist.config.older import is_newer_default, renamed_keys
from hbt_dist.config.paths import RunPath, User, with_paths

#: Blocks of the run file that may change when a run continues, because they do not change the result. The
#: trainer compares the training steps, a schedule made for them, and what decides mined negatives with the
#: checkpoint.
MAY_CHANGE = ("output_dir", "workers", "evaluation", "mining", "training", "step")


def changed_settings(
    before: dict[str, Any],
    now: dict[str, Any],
    *,
    may_change: Collection[str] = MAY_CHANGE,
    may_move: Collection[str] = get_args(User),
) -> list[str]:
    """Return the differences of two runs, such as ``optimizer.learning_rate: 0.1 there, 0.2 now``.

    Args:
        before, now: resolved run files as plain data.
        may_change: dotted keys to ignore, with all keys below them.
        may_move: users whose paths to ignore; the name of a DeepSpeed file is compared nevertheless.
    """

    def moved(path: RunPath) -> str:
        if path.user not in may_move:
            return path.path
        return Path(path.path).name if path.pattern == "deepspeed.config" else "a path"

    if not any((run.get("loss") or {}).get("learn_temperature") for run in (before, now)):
        may_change = {*may_change, "optimizer.temperature_learning_rate"}  # no code reads it then
    if "model" in before:
        before = {**before, "model": renamed_keys(before["model"])}
    before, now = _without_unused_teachers(before), _without_unused_teachers(now)
    return [
        f"{key}: {_shown(old)} there, {_shown(new)} now"
        for key, old, new in leaf_differences(with_paths(before, moved), with_paths(now, moved))
        if not any(f"{key}.".startswith(f"{free}.") for free in may_change)
        and not is_newer_default(key, old, new)
    ]


def _without_unused_teachers(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run without the `teachers` that its loss does not name; they change no result."""
    teachers, loss = run.get("teachers"), run.get("loss") or {}
    if not teachers:
        return run
    named = [
        (loss.get(block) or {}).get(key)
        for block, key in (("false_negatives", "guide"), ("targets", "teacher"))
    ]
    return {**run, "teachers": {name: teacher for name, teacher in teachers.items() if name in named}}


def first_of(differences: list[str]) -> str:
    """Return the first three of `changed_settings` for an error message."""
    return "; ".join([*differences[:3], *(["..."] if len(differences) > 3 else [])])


def leaf_differences(old: Any, new: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Return (dotted key, old value, new value) of every leaf that differs; None for a missing value."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(key, old, new)]
    return [
        difference
        for name in dict.fromkeys([*old, *new])
        for difference in leaf_differences(old.get(name), new.get(name), f"{key}.{name}".lstrip("."))
    ]


def _shown(value: Any, max_length: int = 100) -> str:
    """Return a value as one short line of YAML."""
    if value is None:
        return "nothing"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
