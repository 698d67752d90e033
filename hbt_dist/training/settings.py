"""Define the settings of the training loop and of the optimizer."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from hbt_dist.config.settings import Settings


class TrainingSettings(Settings):
    """How long to train, what to write, how often."""

    steps: int = Field(gt=0, description="optimizer steps; one global batch each")
    schedule_steps: int | None = Field(
        None,
        gt=0,
        description="steps of the learning rate's warm-up and decay, by default `steps`; for a run "
        "that may end earlier or continue",
    )
    checkpoint_every: int = Field(
        500, ge=1, description="steps between checkpoints; the last step always has one"
    )
    keep_checkpoints: int = Field(2, ge=1, description="how many of the newest checkpoints stay on disk")
    keep_every: int | None = Field(
        None,
        ge=1,
        description="also keep every checkpoint whose step is a multiple of this; default: only the newest",
    )
    keep_best: Literal["monolingual", "crosslingual", "multilingual"] | None = Field(
        None,
        description="also keep the checkpoint with the best such mAP on the first of "
        "evaluation.checkpoint_benchmarks; default: only the newest",
    )
    mine_every: int | None = Field(
        None,
        ge=1,
        description="steps between two minings: after steps N, 2N, ... the model mines hard negatives "
        "in the run's data, as `mining` describes, and the following steps draw them; default: the hard "
        "negatives of the data",
    )
    mine_at_start: bool = Field(
        False,
        description="with mine_every: also mine before the first step, with the start model; otherwise the "
        "first steps draw the hard negatives of the data",
    )
    storage: str | None = Field(
        None,
        description="target of a copy of each checkpoint and of the trained model, below the run's name, "
        "during training: a folder, or a URI that pyarrow reads (s3://, gs://, hdfs://, file://); "
        "a start with an empty output_dir continues from there. default: no copy",
    )
    hang_timeout_seconds: float = Field(
        600,
        gt=0,
        description="timeout: a worker that waits longer for another worker stops with an error",
    )
    log_every: int = Field(
        10,
        ge=1,
        description="steps per point of the trackers, which holds their means; metrics.jsonl has every step",
    )
    threads_per_worker: int | None = Field(
        None,
        ge=1,
        description="CPU threads of one worker; default: the node's processors, as affinity and the "
        "container's CPU quota grant them, divided by its workers; at most OMP_NUM_THREADS",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",),
        description="destinations of figures and matrices; wandb and mlflow need their packages",
    )

    @property
    def course(self) -> int:
        """Steps of the learning rate's schedule."""
        return self.steps if self.schedule_steps is None else self.schedule_steps

    def phase(self, step: int) -> range:
        """Return the steps around `step` that draw the same hard negatives."""
        if self.mine_every is None:
            return range(self.steps)
        first = step - step % self.mine_every
        return range(first, min(first + self.mine_every, self.steps))

    def mines_before(self, step: int) -> bool:
        """Return whether the run mines between the optimizer steps before `step` and `step` itself."""
        if self.mine_every is None or step % self.mine_every:
            return False
        return step > 0 or self.mine_at_start

    @model_validator(mode="before")
    @classmethod
    def _older_key(cls, data: Any) -> Any:
        """Read `tensorboard: false` of older files."""
        if not isinstance(data, dict) or not isinstance(data.get("tensorboard"), bool):
            return data
        if "trackers" in data:
            raise ValueError(
                "expected trackers or tensorboard (its older name), got both: remove tensorboard"
            )
        data = dict(data)
        trackers = ["tensorboard"] if data.pop("tensorboard") else []
        return {"trackers": trackers, **data}

    @field_validator("trackers")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"expected each tracker once, got {', '.join(value)}")
        return value

    @model_validator(mode="after")
    def _mines_at_all(self) -> TrainingSettings:
        if self.mine_at_start and self.mine_every is None:
            raise ValueError("mine_at_start needs mine_every: set it, or leave mine_at_start out")
        return self

    @field_validator("storage")
    @classmethod
    def _no_secrets(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and "@" in urlsplit(value).netloc:
            raise ValueError(
                "the address holds credentials, which would be written into the run's files; "
                "put them where the cloud's tools look for them (environment, ~/.aws, metadata)"
            )
        return value


class PartSettings(Settings):
    """Learning rates by part of the model, as factors of `learning_rate`; frozen parts."""

    embedding_rate: float = Field(1.0, gt=0, description="factor for the word embeddings")
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor from each transformer layer to the layer before it: the last layer learns at "
        "`learning_rate`, and what is in front of the first layer at `layer_decay` to the number of layers",
    )
    head_rate: float = Field(1.0, gt=0, description="factor for the dense layers behind the pooling")
    freeze_embeddings: bool = Field(False, description="keep the word embeddings as they are")
    freeze_layers: int = Field(
        0, ge=0, description="keep this many of the first layers, and all in front of them, as they are"
    )

    @model_validator(mode="after")
    def _check(self) -> PartSettings:
        if self.embedding_rate != 1 and (self.freeze_embeddings or self.freeze_layers):
            raise ValueError(
                "embedding_rate is set, but freeze_embeddings or freeze_layers keeps the word embeddings"
            )
        return self


class OptimizerSettings(Settings):
    """AdamW with warm-up and decay."""

    learning_rate: float = Field(2e-5, gt=0, description="highest learning rate, reached after the warm-up")
    temperature_learning_rate: float = Field(
        1e-3,
        gt=0,
        description="highest learning rate of a learned temperature's logarithm, with the same schedule: "
        "AdamW changes it by about this much per step; at 2e-5 hundreds of steps would change it by 1 %",
    )
    parts: PartSettings | None = Field(
        None, description="learning rates by part of the model; default: one learning rate"
    )
    betas: tuple[float, float] = Field((0.9, 0.999), description="decay rates of the two moments")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of the second moment")
    weight_decay: float = Field(
        0.01, ge=0, description="decoupled decay of matrices; biases, norms and the temperature do not decay"
    )
    warmup_steps: int = Field(
        0, ge=0, description="steps of linear warm-up; above 0 it replaces warmup_ratio"
    )
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="share of all steps used for linear warm-up")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="schedule of the learning rate after the warm-up, to 0 at the last step"
    )
    gradient_clipping: float | None = Field(
        None,
        ge=0,
        description="largest norm of the gradient, 0 for no clipping; empty: the value of the DeepSpeed "
        "file, and 1.0 without DeepSpeed",
    )

    @model_validator(mode="after")
    def _check(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must be in 0..1, 1 excluded")
        return self
