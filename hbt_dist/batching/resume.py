"""Save what decides the batches of a plan, and reject a resume under a different plan.

The step and this state are enough: the batches after a resume are those of the uninterrupted run, on any
number of processes, or the resume is rejected with the setting that differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from hbt_dist.common.errors import UserError

PLAN_VERSION = 1  # to be raised whenever the same settings give different batches than before


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """Return the sha256 of a plan's state."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_resume(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Reject a resume under a different plan.

    Args:
        saved: `BatchPlan.state` of the checkpoint.
        current: `BatchPlan.state` of the run that resumes.

    Raises:
        UserError: names the differences.
    """
    if state_fingerprint(saved) == state_fingerprint(current):
        return
    before, now = dict(_flat(saved)), dict(_flat(current))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    differences = {key: f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed}
    if "corpus" in differences:
        differences["corpus"] = "the training data have changed"
    if "version" in differences:
        differences["version"] = "this version of hbt_dist draws different batches"
    dictionaries = "code_switching.dictionaries"
    if dictionaries in differences and dictionaries in before and dictionaries in now:
        differences[dictionaries] = "the dictionaries of code-switching have changed"
    raise UserError(
        "the checkpoint's batch plan",
        f"differs from that of this run: {'; '.join(differences.values())}",
        "give the run the settings and data of the checkpoint, or start a new run from its exported model",
    )


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping | list):
        return [(prefix, value)]
    items = value.items() if isinstance(value, Mapping) else enumerate(value)
    parts = [_flat(part, f"{prefix}.{name}" if prefix else str(name)) for name, part in items]
    return [pair for part in parts for pair in part] or [(prefix, value)]
