"""Settings of the training loop."""

from __future__ import annotations

from pydantic import Field

from hbt_dist.settings import Settings


class TrainingSettings(Settings):
    """How long to train, what to write, how often."""

    steps: int = Field(gt=0, description="optimizer steps; one global batch each")
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints; the last step always has one"
    )
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints stay on disk")
    log_every: int = Field(
        10, ge=1, description="steps between log lines; every step goes into metrics.jsonl"
    )
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one worker; by default the node's cores divided by its workers",
    )
    tensorboard: bool = Field(True, description="also write the figures for TensorBoard")
