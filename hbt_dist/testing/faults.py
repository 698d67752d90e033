"""Let a crash test act inside a training, for example kill a worker at a chosen moment.

    HBT_DIST_FAULT="FILE,rank=1,step=4,where=during_save"

FILE is a Python file with a function `at(moment, step, world, model)`, such as tests/helpers/faults.py.
Without the variable nothing happens.
"""

from __future__ import annotations

import os
import runpy
from functools import cache
from typing import Any

from torch import nn

from hbt_dist.contrastive.world import World


def at(moment: str, step: int, world: World, model: nn.Module | None = None) -> None:
    """Call `at` of the file that `HBT_DIST_FAULT` names, if it is set.

    Args:
        moment: in_step, during_save, between_save_and_report, before_mining, during_mining or after_mining.
        step: counted from 1.
        model: in a step, the engine's model.
    """
    if text := os.environ.get("HBT_DIST_FAULT"):
        _load(text.partition(",")[0])["at"](moment, step, world, model)


@cache
def _load(file: str) -> dict[str, Any]:
    return runpy.run_path(file)
