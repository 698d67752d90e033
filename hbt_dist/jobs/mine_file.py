"""Define and load the file of `hbt-dist mine`: a run file with the block `mining`, or a smaller file.

output_dir: mined
data: {sources: [{name: mine, format: jsonl, path: train.jsonl}]}
model: {name_or_path: intfloat/multilingual-e5-small}
mining: {count: 4}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from hbt_dist.common.errors import UserError
from hbt_dist.config.paths import check_relative, inputs_in
from hbt_dist.config.settings import Settings, load_settings, read_yaml
from hbt_dist.config.user_functions import is_user_function, load_user_function
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.mining.settings import MiningSettings
from hbt_dist.models.settings import ModelSettings
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.run_file import RunFile, absolute_paths, find_run_file

#: Keys that only a run file has.
_RUN_KEYS = {"name", "batches", "training"}


class MineFile(Settings):
    """What a miner reads: all keys are those of a run file."""

    output_dir: str = Field(description="folder of the mined negatives; all nodes of a cluster must share it")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of random sampling")
    data: DataSettings = Field(description="examples and passages")
    model: ModelSettings = Field(description="encoder that scores the passages")
    mining: MiningSettings = Field(
        default_factory=MiningSettings, description="which passages become hard negatives"
    )
    workers: WorkerSettings = Field(
        default_factory=WorkerSettings, description="number of actors and their resources on Ray"
    )

    @model_validator(mode="after")
    def _trained(self) -> Self:
        if self.model.scratch is not None:
            raise ValueError(
                "model.scratch has no trained weights: name the model to mine with, "
                "model={name_or_path: FOLDER}"
            )
        return self

    def plain(self) -> dict[str, Any]:
        """Return the file as plain data (YAML, JSON)."""
        return self.model_dump(mode="json")


def mining_corpus(job: MineFile) -> Corpus:
    """Return the examples of a file, with the passages of its data and of its pool.

    Raises:
        UserError: see `build_corpus`.
    """
    pool = None if job.mining.pool is None else Path(job.mining.pool)
    return build_corpus(job.data, Path(job.data.cache_dir), pool=pool)


def load_mine_file(path: str, overrides: list[str] | tuple[str, ...] = ()) -> MineFile:
    """Load a run file with the block `mining`, or a smaller file, with absolute paths.

    Raises:
        UserError: see `load_settings`; the run file has no such block, or its model is made from scratch.
    """
    file = find_run_file(path)
    keys = {*read_yaml(file)[0], *(item.partition("=")[0].partition(".")[0] for item in overrides)}
    if keys & _RUN_KEYS:
        job = _of_run(load_settings(RunFile, file, overrides), str(file))
    else:
        job = load_settings(MineFile, file, overrides)
    check_relative(inputs_in(job.plain()), file)
    for number, source in enumerate(job.data.sources):
        if is_user_function(source.format):
            load_user_function(source.format, f"{file}, data.sources.{number}.format")
    return MineFile.model_validate(absolute_paths(job.plain(), job.data))


def _of_run(run: RunFile, file: str) -> MineFile:
    """Return what a run file says about mining."""
    if run.mining is None:
        raise UserError(
            file,
            "expected a block mining, got none",
            "add mining: {count: 4}, or the override mining.count=4",
        )
    if run.model.scratch is not None:
        raise UserError(
            f"{file}, model.scratch",
            "expected a trained model to mine with, got random weights",
            f"name one: model={{name_or_path: {run.output_dir}/model}}",
        )
    return MineFile(
        output_dir=run.output_dir,
        seed=run.seed,
        data=run.data,
        model=run.model,
        mining=run.mining,
        workers=run.workers,
    )
