"""Hold what one start of a run needs on a rank while it trains."""

from __future__ import annotations

from dataclasses import dataclass, field

from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.world import World
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.engine import Engine
from hbt_dist.training.preparation import Prepared
from hbt_dist.training.run_folder import RunFolder


@dataclass(frozen=True)
class Session:
    """One start of a run on this rank.

    Attributes:
        step_settings: the run's step settings with `chunk_rows` resolved to a number.
        start_model: digest of the model folder that the run starts from, on rank 0.
        notes: messages of the start, printed and logged before the first step.
    """

    run: RunFile
    world: World
    folder: RunFolder
    prepared: Prepared
    engine: Engine
    step_settings: StepSettings
    start_model: str | None
    notes: list[str] = field(default_factory=list)
