"""The run file: everything one training run is made of, typed.

The same file drives `hbt-dist train`, the deepspeed launcher, Ray jobs and Tune trials. `hbt-dist schema`
prints its JSON schema.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hbt_dist.batching.config import BatchSettings, CodeSwitchingSettings
from hbt_dist.command_line import EMBEDDED
from hbt_dist.contrastive.config import LossSettings, StepSettings
from hbt_dist.data.config import BenchmarkSettings, DataSettings
from hbt_dist.errors import UserError
from hbt_dist.evaluation.config import EvaluationSettings
from hbt_dist.modeling import ModelSettings
from hbt_dist.orchestration.config import WorkerSettings
from hbt_dist.settings import Settings, load_settings
from hbt_dist.training.config import TrainingSettings
from hbt_dist.training.deepspeed_config import DeepSpeedSettings
from hbt_dist.training.optimizer import OptimizerSettings

__all__ = [
    "BenchmarkSettings",
    "RunEvaluation",
    "RunFile",
    "find_run_file",
    "load_run",
    "resolve_paths",
]


class RunEvaluation(Settings):
    """Which benchmarks the run is measured on, and when."""

    benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (), description="none: training is not followed by an evaluation"
    )
    when: tuple[Literal["start", "end"], ...] = Field(
        ("end",), description="start: the model before training; end: the trained model"
    )
    checkpoint_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="every checkpoint is measured on these, beside the training, which does not wait; "
        "figures go to validation.jsonl and TensorBoard",
    )
    checkpoint_gpus: float = Field(
        0, ge=0, description="GPUs that Ray reserves for that beside the workers'; 0: on a CPU"
    )
    scoring: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="how embeddings are made and scored"
    )


class RunFile(Settings):
    """One training run."""

    name: str = Field(description="name of the run in reports", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(
        description="folder that the run writes to; on a cluster it must be shared by all nodes"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="fixes weights from scratch, batches and dropout")
    data: DataSettings = Field(description="what is trained on")
    batches: BatchSettings = Field(description="what a global batch is made of")
    model: ModelSettings = Field(description="the encoder that is trained")
    loss: LossSettings = Field(default_factory=LossSettings, description="the contrastive objective")
    step: StepSettings = Field(default_factory=StepSettings, description="how its gradient is computed")
    optimizer: OptimizerSettings = Field(
        default_factory=OptimizerSettings, description="AdamW and its schedule"
    )
    deepspeed: DeepSpeedSettings = Field(
        default_factory=DeepSpeedSettings, description="ZeRO stage and precision"
    )
    training: TrainingSettings = Field(description="how long, and what is written")
    workers: WorkerSettings = Field(default_factory=WorkerSettings, description="processes and Ray")
    evaluation: RunEvaluation = Field(default_factory=RunEvaluation, description="measurements of the run")

    @model_validator(mode="after")
    def _best_of_something(self) -> RunFile:
        if self.training.keep_best is not None and not self.evaluation.checkpoint_benchmarks:
            raise ValueError("training.keep_best needs evaluation.checkpoint_benchmarks")
        return self

    def plain(self) -> dict[str, Any]:
        """The resolved run file as plain data (YAML, JSON)."""
        return self.model_dump(mode="json")


def find_run_file(name: str) -> Path:
    """The path of a run file: a file, or the name of one that comes with the package.

    Raises:
        UserError: neither exists.
    """
    path = Path(name)
    embedded = EMBEDDED / f"{name}.yaml"
    if not path.exists() and embedded.is_file():
        return embedded
    if not path.exists():
        names = sorted(file.stem for file in EMBEDDED.glob("*.yaml"))
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
        UserError: see `load_settings`.
    """
    run = load_settings(RunFile, find_run_file(path), overrides)
    return resolve_paths(run)


def resolve_paths(run: RunFile) -> RunFile:
    """The run with paths relative to the working directory made absolute."""
    data = run.plain()
    data["output_dir"] = _absolute(run.output_dir)
    data["data"]["cache_dir"] = _absolute(run.data.cache_dir)
    for source, block in zip(run.data.sources, data["data"]["sources"], strict=True):
        if source.path is not None and source.format != "hub":
            block["path"] = _absolute(source.path)
    switching = run.batches.code_switching
    if switching is not None:
        data["batches"]["code_switching"] |= _absolute_dictionaries(switching)
    for benchmarks, blocks in (
        (run.evaluation.benchmarks, data["evaluation"]["benchmarks"]),
        (run.evaluation.checkpoint_benchmarks, data["evaluation"]["checkpoint_benchmarks"]),
        (run.data.exclude_overlap_with, data["data"]["exclude_overlap_with"]),
    ):
        for benchmark, block in zip(benchmarks, blocks, strict=True):
            if benchmark.data_dir is not None:
                block["data_dir"] = _absolute(benchmark.data_dir)
    storage = run.training.storage
    if storage is not None and "://" not in storage:
        data["training"]["storage"] = _absolute(storage)
    name = run.model.name_or_path
    if name is not None and Path(name).expanduser().is_dir():
        data["model"]["name_or_path"] = _absolute(name)
    engine = run.deepspeed.config
    if isinstance(engine, str) and ("/" in engine or engine.endswith(".json")):
        data["deepspeed"]["config"] = _absolute(engine)
    if run.evaluation.scoring.cache_dir is not None:
        data["evaluation"]["scoring"]["cache_dir"] = _absolute(run.evaluation.scoring.cache_dir)
    if run.evaluation.scoring.language_removal_texts is not None:
        texts = _absolute(run.evaluation.scoring.language_removal_texts)
        data["evaluation"]["scoring"]["language_removal_texts"] = texts
    return RunFile.model_validate(_unset_defaults(data, run))


def _absolute_dictionaries(switching: CodeSwitchingSettings) -> dict[str, Any]:
    files = switching.dictionaries
    if isinstance(files, dict):
        files = {pair: _absolute(file) for pair, file in files.items()}
    elif files is not None and files != "sample":
        files = _absolute(files)
    vectors = switching.vectors and {code: _absolute(file) for code, file in switching.vectors.items()}
    return {"dictionaries": files, "vectors": vectors, "cache_dir": _absolute(switching.cache_dir)}


def _unset_defaults(data: dict[str, Any], run: RunFile) -> dict[str, Any]:
    """Leave out what the user did not set in a data source: its options are checked against its format."""
    for source, block in zip(run.data.sources, data["data"]["sources"], strict=True):
        for name in set(block) - source.model_fields_set:
            del block[name]
    return data


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())
