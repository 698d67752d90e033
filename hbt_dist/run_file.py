"""The run file: everything one training run is made of, typed.

The same file drives `hbt-dist train`, the deepspeed launcher, Ray jobs and Tune trials. `hbt-dist schema`
prints its JSON schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.config.paths import with_paths
from hbt_dist.config.settings import Settings, load_settings
from hbt_dist.config.shipped import RUN_FILES
from hbt_dist.config.user_functions import is_user_function, load_user_function, user_digests
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.data.benchmarks.settings import BenchmarkSettings, check_labels
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.settings import ModelSettings
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings
from hbt_dist.training.settings import OptimizerSettings, TrainingSettings

__all__ = [
    "BenchmarkSettings",
    "RunEvaluation",
    "RunFile",
    "find_run_file",
    "load_run",
    "resolve_paths",
]


class RunEvaluation(Settings):
    """The benchmarks of the run, and when it evaluates on them."""

    benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (), description="evaluated at the times of `when`; default: no evaluation"
    )
    when: tuple[Literal["start", "end"], ...] = Field(
        ("end",), description="start: the model before training; end: the trained model"
    )
    checkpoint_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="evaluated for every checkpoint while training continues; "
        "figures go to validation.jsonl and TensorBoard",
    )
    checkpoint_gpus: float = Field(
        0, ge=0, description="GPUs that Ray reserves for that in addition to the workers'; 0: on a CPU"
    )
    scoring: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="how embeddings are made and scored"
    )

    @model_validator(mode="after")
    def _a_label_each(self) -> RunEvaluation:
        check_labels(benchmarks=self.benchmarks)
        check_labels(checkpoint_benchmarks=self.checkpoint_benchmarks)
        return self


class RunFile(Settings):
    """One training run."""

    name: str = Field(description="name of the run in reports", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(
        description="folder that the run writes to; on a cluster it must be shared by all nodes"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="fixes weights from scratch, batches and dropout")
    data: DataSettings = Field(description="the examples that are trained on, and their languages")
    batches: BatchSettings = Field(description="what a global batch is made of")
    model: ModelSettings = Field(description="the encoder that is trained")
    loss: LossSettings = Field(default_factory=LossSettings, description="the contrastive objective")
    step: StepSettings = Field(default_factory=StepSettings, description="how its gradient is computed")
    optimizer: OptimizerSettings = Field(
        default_factory=OptimizerSettings, description="AdamW and its schedule"
    )
    deepspeed: DeepSpeedSettings = Field(
        default_factory=DeepSpeedSettings, description="ZeRO stage and precision of the engine"
    )
    training: TrainingSettings = Field(description="how long, and what is written")
    workers: WorkerSettings = Field(
        default_factory=WorkerSettings, description="how many processes train, and where Ray puts them"
    )
    evaluation: RunEvaluation = Field(default_factory=RunEvaluation, description="measurements of the run")

    @model_validator(mode="after")
    def _best_of_something(self) -> RunFile:
        if self.training.keep_best is not None and not self.evaluation.checkpoint_benchmarks:
            raise ValueError("training.keep_best needs evaluation.checkpoint_benchmarks")
        return self

    @model_validator(mode="after")
    def _a_rate_for_every_step(self) -> RunFile:
        if self.training.course < self.training.steps and self.optimizer.schedule != "constant":
            raise ValueError(
                "training.schedule_steps is below training.steps: the last steps would have learning rate 0"
            )
        return self

    @model_validator(mode="after")
    def _something_to_contrast(self) -> RunFile:
        if self.batches.hard_negatives.count == 0:
            if self.loss.equation == "paper_eq1":
                raise ValueError(
                    "loss.equation paper_eq1 knows hard negatives only, batches.hard_negatives.count is 0: "
                    "nothing would be trained"
                )
            if self.batches.global_batch_size == 1:
                raise ValueError(
                    "batches.global_batch_size is 1 without hard negatives: nothing to contrast with"
                )
        return self

    def plain(self) -> dict[str, Any]:
        """The resolved run file as plain data (YAML, JSON)."""
        return self.model_dump(mode="json")


def user_function_facts(run: RunFile) -> dict[str, Any]:
    """What provenance records of the user's functions that decide the training: their modules' digests."""
    named = [name for key, name in user_functions(run) if key.startswith(("data.sources.", "batches."))]
    return {"own": user_digests(named)} if named else {}


def find_run_file(name: str) -> Path:
    """The path of a run file: a file, or the name of one that comes with the package.

    Raises:
        UserError: neither exists.
    """
    path = Path(name)
    embedded = RUN_FILES / f"{name}.yaml"
    if not path.exists() and embedded.is_file():
        return embedded
    if not path.exists():
        names = sorted(file.stem for file in RUN_FILES.glob("*.yaml"))
        close = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise UserError(
            name,
            "no such run file",
            f"{meant}give a YAML file, or one that comes with the package: {', '.join(names)}",
        )
    return path


def load_run(path: str, overrides: list[str] | tuple[str, ...] = ()) -> RunFile:
    """Load a run file, apply overrides, make its paths absolute (workers run in other folders).

    Raises:
        UserError: see `load_settings`; a user-defined function of the run cannot be imported.
    """
    run = load_settings(RunFile, file := find_run_file(path), overrides)
    check_user_functions(run, str(file))
    return resolve_paths(run)


def check_user_functions(run: RunFile, place: str) -> None:
    """Import every user-defined function that a run names.

    Args:
        place: the file, for messages.

    Raises:
        UserError: one cannot be imported.
    """
    for key, name in user_functions(run):
        load_user_function(name, f"{place}, {key}")


def user_functions(run: RunFile) -> Iterator[tuple[str, str]]:
    """Yield key and name of every user-defined function of a run."""
    named = [(f"data.sources.{i}.format", source.format) for i, source in enumerate(run.data.sources)]
    named += [(f"batches.mixture.{i}.kind", entry.kind) for i, entry in enumerate(run.batches.entries())]
    for key, benchmarks in (
        ("data.exclude_overlap_with", run.data.exclude_overlap_with),
        ("evaluation.benchmarks", run.evaluation.benchmarks),
        ("evaluation.checkpoint_benchmarks", run.evaluation.checkpoint_benchmarks),
    ):
        named += [(f"{key}.{i}.name", benchmark.name) for i, benchmark in enumerate(benchmarks)]
    named += [
        (f"evaluation.scoring.metrics.{i}", name) for i, name in enumerate(run.evaluation.scoring.metrics)
    ]
    return ((key, name) for key, name in named if is_user_function(name))


def resolve_paths(run: RunFile) -> RunFile:
    """The run with paths relative to the working directory made absolute."""
    data = with_paths(run.plain(), lambda found: str(Path(found.path).expanduser().absolute()))
    return RunFile.model_validate(_unset_defaults(data, run))


def _unset_defaults(data: dict[str, Any], run: RunFile) -> dict[str, Any]:
    """Leave out what the user did not set in a data source: its options are checked against its format."""
    for source, block in zip(run.data.sources, data["data"]["sources"], strict=True):
        for name in set(block) - source.model_fields_set:
            del block[name]
    return data
