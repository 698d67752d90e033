"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from hbt_dist.config.settings import Settings


class TrainingSettings(Settings):
    """How long to train, what to write, how often."""

    steps: int = Field(gt=0, description="optimizer steps; one global batch each")
    schedule_steps: int | None = Field(
        None,
        gt=0,
        description="steps that warm-up and decay of the learning rate are made for, by default `steps`; for "
        "a run that may be cut short or taken further",
    )
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints; the last step always has one"
    )
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints stay on disk")
    keep_every: int | None = Field(
        None,
        ge=1,
        description="besides them, keep every checkpoint whose step is a multiple of this; none: no more",
    )
    keep_best: Literal["monolingual", "crosslingual", "multilingual"] | None = Field(
        None,
        description="besides them, keep the checkpoint with the best such mAP on the first of "
        "evaluation.checkpoint_benchmarks; none: no more",
    )
    storage: str | None = Field(
        None,
        description="where a copy of each checkpoint and of the trained model goes, below the run's name, "
        "while training goes on: a folder, or a URI that pyarrow reads (s3://, gs://, hdfs://, file://); "
        "a start with an empty output_dir continues from there. none: no copy",
    )
    hang_timeout_seconds: float = Field(
        600,
        gt=0,
        description="a worker that waits so long for another one ends: the other one hangs",
    )
    log_every: int = Field(
        10, ge=1, description="steps between log lines; every step goes into metrics.jsonl"
    )
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one worker; by default the node's cores divided by its workers",
    )
    tensorboard: bool = Field(True, description="also write the figures for TensorBoard")

    @property
    def course(self) -> int:
        """The steps that the learning rate's course is made for."""
        return self.steps if self.schedule_steps is None else self.schedule_steps

    @field_validator("storage")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and "@" in urlsplit(value).netloc:
            raise ValueError(
                "the address holds credentials, which would be written into the run's files; "
                "put them where the cloud's tools look for them (environment, ~/.aws, metadata)"
            )
        return value
