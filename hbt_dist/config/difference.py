"""List the settings in which two resolved run files differ."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, get_args

import yaml

from hbt_dist.config.paths import RunPath, User, with_paths

#: Blocks of the run file that may change when a run is continued: none of them changes what is computed, but
#: the training's steps with a schedule made for them, which the trainer compares with the checkpoint.
MAY_CHANGE = ("output_dir", "workers", "evaluation", "training", "step")


def changed_settings(
    before: dict[str, Any],
    now: dict[str, Any],
    *,
    may_change: Collection[str] = MAY_CHANGE,
    may_move: Collection[str] = get_args(User),
) -> list[str]:
    """In what two runs differ, such as ``optimizer.learning_rate: 0.1 there, 0.2 now``.

    Args:
        before, now: resolved run files as plain data.
        may_change: dotted keys that do not count, nor what is below them.
        may_move: whose paths do not count; of a DeepSpeed file its name does.
    """

    def moved(found: RunPath) -> str:
        if found.user not in may_move:
            return found.path
        return Path(found.path).name if found.pattern == "deepspeed.config" else "a path"

    if not any((run.get("loss") or {}).get("learn_temperature") for run in (before, now)):
        # Read by nothing then, and younger than many run files.
        may_change = {*may_change, "optimizer.temperature_learning_rate"}
    return [
        f"{key}: {_shown(old)} there, {_shown(new)} now"
        for key, old, new in _differences(with_paths(before, moved), with_paths(now, moved), "")
        if not any(f"{key}.".startswith(f"{free}.") for free in may_change)
    ]


def first_of(differences: list[str]) -> str:
    """The first three of `changed_settings`, for an error."""
    return "; ".join([*differences[:3], *(["..."] if len(differences) > 3 else [])])


def _differences(old: Any, new: Any, key: str) -> list[tuple[str, Any, Any]]:
    """Every leaf that differs: (dotted key, old value, new value); None where there is none."""
    if isinstance(old, list) and isinstance(new, list):
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [
            difference
            for name in names
            for difference in _differences(
                old.get(name), new.get(name), f"{key}.{name}" if key else str(name)
            )
        ]
    return [] if old == new else [(key, old, new)]


def _shown(value: Any, most: int = 100) -> str:
    """A value as the run file would have it, in one short line."""
    if value is None:
        return "nothing"
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=sys.maxsize)
    text = text.removesuffix("...\n").strip()
    return text if len(text) <= most else f"{text[: most - 1]}…"
