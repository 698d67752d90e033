"""Define and load the run file: all settings of one training run.

The same file drives `hbt-dist train`, the deepspeed launcher, Ray jobs and Tune trials. `hbt-dist schema`
prints its JSON schema.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hbt_dist.batching.settings import NEGATIVE_SHARES, BatchSettings, HardNegativeSettings
from hbt_dist.common.errors import UserError, expected
from hbt_dist.common.files import expanded
from hbt_dist.config.epochs import steps_instead
from hbt_dist.config.messages import Key
from hbt_dist.config.paths import check_relative, inputs_in, with_paths
from hbt_dist.config.settings import Settings, apply_overrides, plain_copy, read_yaml, validate
from hbt_dist.config.shipped import RUN_FILES
from hbt_dist.config.user_functions import is_user_function, load_user_function, user_digests
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.data.benchmarks.settings import BenchmarkSettings, check_labels
from hbt_dist.data.corpus.in_memory import with_stored_rows
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.mining.settings import MiningSettings
from hbt_dist.models.settings import LIMITS, ModelSettings, TeacherSettings
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
    """The benchmarks of the run, and when they are measured."""

    benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (), description="measured at the moments of `when`; default: no evaluation after the training"
    )
    when: tuple[Literal["start", "end"], ...] = Field(
        ("start", "end"),
        description="start: the model before training; end: the trained model; [end] saves time",
    )
    checkpoint_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="benchmarks for every checkpoint, measured while the training continues; figures go to "
        "validation.jsonl and the trackers",
    )
    checkpoint_gpus: float = Field(
        0,
        ge=0,
        description="GPUs that Ray reserves for measuring checkpoints in addition to the workers'; a "
        "fraction shares a GPU with other jobs; 0: CPU, where a model of base size takes minutes per "
        "checkpoint",
    )
    max_question_tokens: int | None = Field(
        None,
        ge=4,
        description="maximum of tokens per question in evaluations; default: the longer of the model's limit "
        "and model.text.max_question_tokens",
    )
    max_passage_tokens: int | None = Field(
        None,
        ge=4,
        description="maximum of tokens per candidate in evaluations; default: the longer of the model's "
        "limit and model.text.max_passage_tokens",
    )
    scoring: EvaluationSettings = Field(
        default_factory=EvaluationSettings, description="precision, batches and metrics of the scoring"
    )

    @model_validator(mode="after")
    def _check_labels(self) -> RunEvaluation:
        check_labels(benchmarks=self.benchmarks)
        check_labels(checkpoint_benchmarks=self.checkpoint_benchmarks)
        return self


def _drawn(negatives: HardNegativeSettings) -> set[str]:
    """Return the shares of a miner whose negatives the batches draw."""
    return {"any", *(negatives.shares() or NEGATIVE_SHARES)}


class RunFile(Settings):
    """One training run."""

    name: str = Field(description="name of the run in reports", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(description="folder that the run writes to; all nodes of a cluster must share it")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of initial weights, batches and dropout")
    data: DataSettings = Field(description="training examples and their languages")
    batches: BatchSettings = Field(description="composition of a global batch")
    model: ModelSettings = Field(description="encoder to train: source and text settings")
    loss: LossSettings = Field(default_factory=LossSettings, description="contrastive objective")
    teachers: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], TeacherSettings] = Field(
        default_factory=dict,
        description="frozen models by name, for the parts of the loss that name one; their vectors are "
        "computed before the first step",
    )
    step: StepSettings = Field(default_factory=StepSettings, description="computation of the gradient")
    optimizer: OptimizerSettings = Field(
        default_factory=OptimizerSettings, description="AdamW and its schedule"
    )
    deepspeed: DeepSpeedSettings = Field(
        default_factory=DeepSpeedSettings, description="ZeRO stage and precision of the engine"
    )
    training: TrainingSettings = Field(description="length of the training and its output")
    workers: WorkerSettings = Field(
        default_factory=WorkerSettings, description="number of processes and their resources on Ray"
    )
    evaluation: RunEvaluation = Field(default_factory=RunEvaluation, description="benchmarks of the run")
    mining: MiningSettings | None = Field(
        None, description="hard negatives that `hbt-dist mine` looks for; default: none are mined"
    )

    @model_validator(mode="before")
    @classmethod
    def _no_epochs(cls, data: Any) -> Any:
        training = data.get("training") if isinstance(data, dict) else None
        if isinstance(training, dict) and "epochs" in training:
            raise ValueError(steps_instead(data))
        return data

    @model_validator(mode="after")
    def _known_teachers(self) -> RunFile:
        for key, name in self.loss.teachers().items():
            if name not in self.teachers:
                close = difflib.get_close_matches(name, self.teachers, n=1)
                known = f"did you mean {close[0]}?" if close else f"add teachers.{name}.name_or_path"
                raise ValueError(f"{key} names {name}, which `teachers` lacks: {known}")
        return self

    @model_validator(mode="after")
    def _candidates_of_distillation(self) -> RunFile:
        if self.loss.distillation is not None and self.batches.hard_negatives.count == 0:
            raise ValueError(
                "loss.distillation compares a passage with its hard negatives, but "
                "batches.hard_negatives.count is 0: set it to 1 or more"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> RunFile:
        if self.training.keep_best is not None and not self.evaluation.checkpoint_benchmarks:
            raise ValueError("training.keep_best needs evaluation.checkpoint_benchmarks")
        if self.training.course < self.training.steps and self.optimizer.schedule != "constant":
            raise ValueError(
                "training.schedule_steps is below training.steps: the last steps would have learning rate 0"
            )
        parts = self.optimizer.parts
        if self.model.lora is not None and parts is not None:
            for key in ("embedding_rate", "freeze_embeddings"):
                if getattr(parts, key) != type(parts).model_fields[key].default:
                    raise ValueError(
                        f"optimizer.parts.{key} changes nothing with model.lora, which freezes the word "
                        f"embeddings: remove optimizer.parts.{key}"
                    )
        names = [source.name for source in self.data.sources]
        for index, entry in enumerate(self.batches.entries()):
            if unknown := entry.unknown_source(names):
                raise ValueError(f"batches.mixture.{index}.sources: {unknown[0]}; {unknown[1]}")
        return self

    @model_validator(mode="after")
    def _check_negatives(self) -> RunFile:
        if self.batches.hard_negatives.count > 0:
            return self
        if self.loss.equation == "paper_eq1":
            raise ValueError(
                "loss.equation paper_eq1 needs hard negatives, but batches.hard_negatives.count is 0"
            )
        for key in ("false_negatives", "hardness"):
            if getattr(getattr(self.loss, key), "columns", None) == "hard_negatives":
                raise ValueError(
                    f"loss.{key}.columns is hard_negatives, but batches.hard_negatives.count is 0: set "
                    f"loss.{key}.columns to in_batch"
                )
        if self.batches.global_batch_size == 1:
            raise ValueError(
                "batches.global_batch_size is 1 without hard negatives: the batch has no negatives"
            )
        return self

    @model_validator(mode="after")
    def _check_phases(self) -> RunFile:
        """Check what mining between phases of training needs."""
        every, mining, negatives = self.training.mine_every, self.mining, self.batches.hard_negatives
        if every is None:
            return self
        if mining is None:
            raise ValueError("training.mine_every needs the block mining, such as mining: {count: 4}")
        if negatives.count == 0:
            raise ValueError(
                "training.mine_every mines for batches without hard negatives: set "
                "batches.hard_negatives.count, or remove training.mine_every"
            )
        if every >= self.training.steps and not self.training.mine_at_start:
            raise ValueError(
                f"training.mine_every is {every}, training.steps {self.training.steps}: the run would never "
                "mine; lower it, or set training.mine_at_start"
            )
        if mining.judge is not None:
            raise ValueError(
                "mining.judge does not fit training.mine_every, with which the trained model judges alone: "
                "remove it, or mine with 'hbt-dist mine' before the training"
            )
        if mining.pool is not None:
            raise ValueError(
                "mining.pool does not fit training.mine_every, which mines among the passages of the data: "
                "remove it, or mine with 'hbt-dist mine' before the training"
            )
        if mining.encoding.device not in ("auto", "cpu"):
            raise ValueError(
                f"mining.encoding.device is {mining.encoding.device}, but with training.mine_every each "
                "worker mines on its device: set auto, or cpu"
            )
        if self.loss.distillation is not None:
            raise ValueError(
                "loss.distillation reads a teacher's scores, which hard negatives of training.mine_every do "
                "not have: remove one of them, or mine with 'hbt-dist mine' before the training"
            )
        if missed := sorted(set(mining.shares()) - _drawn(negatives)):
            raise ValueError(
                f"mining.languages has the share {', '.join(missed)}, which batches.hard_negatives never "
                f"draws with language {negatives.language}: set batches.hard_negatives.language: mined"
            )
        return self

    def evaluated_text(self) -> dict[str, Any]:
        """Return arguments of `load_encoder` for evaluations: the training's limits shorten no text."""
        text = {key: value for key, value in self.model.text.items() if key not in LIMITS}
        explicit = {key: value for key in LIMITS if (value := getattr(self.evaluation, key)) is not None}
        training = {key: self.model.text[key] for key in LIMITS if key in self.model.text}
        return {"text": {**text, **explicit}, "at_least": training}

    def plain(self) -> dict[str, Any]:
        """Return the resolved run file as plain data (YAML, JSON)."""
        return self.model_dump(mode="json")

    def with_changes(self, changes: Mapping[str, Any] | Sequence[str]) -> RunFile:
        """Return a changed copy: ``run.with_changes({"batches.alpha": 0.25, "output_dir": "runs/b"})``.

        Raises:
            UserError: see `load_run`.
        """
        return load_run(self, changes)

    def __repr__(self) -> str:
        model = self.model.name_or_path or "an encoder from scratch"
        sources = ", ".join(source.name for source in self.data.sources)
        return (
            f"RunFile {self.name}: {self.training.steps:,} steps of {self.batches.global_batch_size:,} rows "
            f"of {sources}, {model}, output in {self.output_dir}"
        )

    __str__ = __repr__


def find_run_file(name: str) -> Path:
    """Return the path of a run file, given as a path or as the name of a run file of the package.

    Raises:
        UserError: neither exists.
    """
    path, shipped = Path(name), RUN_FILES / f"{name}.yaml"
    if path.exists() or shipped.is_file():
        return path if path.exists() else shipped
    names = sorted(file.stem for file in RUN_FILES.glob("*.yaml"))
    close = difflib.get_close_matches(name.removesuffix(".yaml"), names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    remedy = f"{hint}give a YAML file, or a run file of the package: {', '.join(names)}"
    raise UserError(name, "no such run file", remedy)


def load_run(
    run: str | Path | Mapping[str, Any] | RunFile, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> RunFile:
    """Load a run, apply overrides, and make its paths absolute (workers run in other folders).

    A source may hold its rows: ``{"name": "mine", "rows": rows}``, where rows are a list of dicts, a
    `datasets.Dataset` or a data frame. They are stored below ``data.cache_dir``, see
    `hbt_dist.data.corpus.in_memory`.

    Args:
        run: a YAML file, the name of a run file of the package, a dict with the same keys, or a loaded run.
        overrides: values by dotted key, ``{"batches.alpha": 0.25}``, or items of the command line,
            ``["batches.alpha=0.25"]``.

    Raises:
        UserError: the run is of another type; see `load_settings`; rows cannot be stored; a user function
            cannot be imported.
    """
    file: Path | None = None
    lines: dict[Key, int] = {}
    if isinstance(run, str | Path):
        file = find_run_file(str(run))
        data, lines = read_yaml(file)
    elif isinstance(run, RunFile):
        data = unset_left_out(run.plain(), run.data)
    elif isinstance(run, Mapping):
        data = plain_copy(run)
    else:
        raise expected(
            "run",
            "a run file, a dict or a RunFile",
            run,
            'rows of data go into a source: {..., "data": {"sources": [{"name": "mine", "rows": rows}]}}',
        )
    name = "run" if file is None else str(file)
    overridden = apply_overrides(data, overrides)
    if isinstance(data.get("data"), Mapping):
        data["data"] = with_stored_rows(data["data"], f"{name}, data.sources")
    loaded = validate(RunFile, data, name, lines, overridden)
    if file is not None:
        check_paths(loaded, file)
    check_user_functions(loaded, name)
    return resolve_paths(loaded)


def check_paths(run: RunFile, file: Path) -> None:
    """Refuse relative paths that exist next to a run file, but not in the working directory.

    Raises:
        UserError: see `check_relative`.
    """
    check_relative(inputs_in(run.plain()), file)


def check_user_functions(run: RunFile, location: str) -> None:
    """Import every user function that a run names.

    Args:
        location: the file, for messages.

    Raises:
        UserError: a function cannot be imported.
    """
    for key, name in user_functions(run):
        load_user_function(name, f"{location}, {key}")


def user_functions(run: RunFile) -> Iterator[tuple[str, str]]:
    """Yield key and name of every user function that a run names."""
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


def user_function_facts(run: RunFile) -> dict[str, Any]:
    """Return the digests of the user functions that affect the training, for provenance."""
    named = [name for key, name in user_functions(run) if key.startswith(("data.sources.", "batches."))]
    return {"user_functions": user_digests(named)} if named else {}


def resolve_paths(run: RunFile) -> RunFile:
    """Return the run with absolute paths."""
    return RunFile.model_validate(absolute_paths(run.plain(), run.data))


def absolute_paths(plain: dict[str, Any], data: DataSettings) -> dict[str, Any]:
    """Return a file in plain data with absolute paths.

    Args:
        data: its block data, whose sources know which of their options are set.
    """
    changed = with_paths(plain, lambda path: str(expanded(path.path).absolute()))
    return unset_left_out(changed, data)


def unset_left_out(plain: dict[str, Any], data: DataSettings) -> dict[str, Any]:
    """Return plain data whose sources lack the options that are not set: a format refuses those of others.

    Args:
        data: see `absolute_paths`.
    """
    for source, block in zip(data.sources, plain["data"]["sources"], strict=True):
        for name in set(block) - source.model_fields_set:
            del block[name]
    return plain
