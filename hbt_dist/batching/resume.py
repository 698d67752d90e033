"""Save what decides the batches of a plan, and reject a resume under a different plan.

The step and this state are enough: the batches after a resume are those of the uninterrupted run, on any
number of processes, or the resume is rejected with the setting that differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.config.difference import leaf_differences

_MINED = "mined"
PLAN_VERSION = 1  # to be raised whenever the same settings give different batches than before


@dataclass(frozen=True)
class Phase:
    """A part of a training whose hard negatives come from one source: the data, or a mining before it.

    Attributes:
        steps: of the phase.
        settings: decide when and how the run mines, as plain data.
        mined: digests of the mined negatives, of this phase and all before it, by the step of the mining.
    """

    steps: range
    settings: Mapping[str, Any]
    mined: Mapping[str, str]

    @property
    def state(self) -> dict[str, Any]:
        """What a plan's state has in addition."""
        return {**self.settings, _MINED: dict(self.mined)}


def state_fingerprint(state: Mapping[str, Any]) -> str:
    """Return the sha256 of a plan's state."""
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def check_resume(saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Reject a resume under a different plan.

    Digests of mined negatives do not count: the run continues with those that the checkpoint holds.

    Args:
        saved: `BatchPlan.state` of the checkpoint.
        current: `BatchPlan.state` of the run that resumes.

    Raises:
        UserError: names the differences.
    """
    saved, current = ({key: state[key] for key in state if key != _MINED} for state in (saved, current))
    if state_fingerprint(saved) == state_fingerprint(current):
        return
    before, now = ({"code_switching": {}, **state} for state in (saved, current))
    changed = {key: (old, new) for key, old, new in leaf_differences(before, now)}
    differences = {key: f"{key} was {old}, is {new}" for key, (old, new) in sorted(changed.items())}
    if "corpus" in differences:
        differences["corpus"] = "the training data have changed"
    if "version" in differences:
        differences["version"] = "this version of hbt_dist draws different batches"
    dictionaries = "code_switching.dictionaries"
    if None not in changed.get(dictionaries, (None,)):
        differences[dictionaries] = "the dictionaries of code-switching have changed"
    raise UserError(
        "the checkpoint's batch plan",
        f"differs from that of this run: {'; '.join(differences.values())}",
        "give the run the settings and data of the checkpoint, or start a new run from its exported model",
    )
