"""What every rank runs in tests/training/test_teachers.py."""

from __future__ import annotations

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.run_file import RunFile
from hbt_dist.training import teachers


def stored(world: World, run: dict[str, Any], folder: str) -> dict[str, str]:
    """The files of a run's vectors in a cache folder, by their names, with digests of their content."""
    settings = RunFile.model_validate(run)
    corpus = build_corpus(settings.data, Path(settings.data.cache_dir))
    plan = BatchPlan(corpus, settings.batches, settings.seed)
    data = settings.data.model_copy(update={"cache_dir": folder})
    teachers.compute_vectors(settings.model_copy(update={"data": data}), plan, world)
    files = sorted(Path(folder).rglob("rows-*.npy"))
    return {
        str(file.relative_to(folder)): hashlib.sha256(np.load(file).tobytes()).hexdigest() for file in files
    }


def everything(world: World, run: dict[str, Any], folder: str) -> dict[str, Any]:
    """A folder of all ranks, a model that is not the same on rank 1, and a folder for each."""
    teachers.ROWS_PER_FILE = 100
    found: dict[str, Any] = {"files": stored(world, run, folder)}
    changed = {"teachers": {"english": {"name_or_path": run["model"]["name_or_path"]}}}
    try:
        stored(world, {**run, **changed} if world.rank == 1 else run, f"{folder}-different")
    except UserError as error:
        found["different"] = str(error)
    found["encoded"] = [str(file) for file in Path(f"{folder}-different").rglob("rows-*.npy")]
    teachers.require_shared = partial(teachers.require_shared, seconds=0.2)
    try:
        stored(world, run, f"{folder}-{world.rank}")
    except UserError as error:
        found["separate"] = str(error)
    return found
