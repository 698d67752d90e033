"""Encode, score and search in one actor of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from hbt_dist.common.devices import torch_device
from hbt_dist.evaluation.device_shard import open_shard
from hbt_dist.evaluation.embedding_files import EmbeddingFiles, Role
from hbt_dist.evaluation.encode import encode_rows, tokenise, with_arithmetic
from hbt_dist.evaluation.faiss_lists import part_keys
from hbt_dist.evaluation.matrix_rows import Rows
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.ranks import ScoringShard
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Counts
from hbt_dist.evaluation.text_counts import flags_of
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Task:
    """The part of a ranking that one actor computes; the actor fetches the object references."""

    key: str
    blocks: range
    plan: ObjectRef[ScoringPlan]
    questions: ObjectRef[Any]
    candidates: ObjectRef[Rows] | EmbeddingFiles
    candidate_ids: ObjectRef[Sequence[str]]
    top_k: int
    searched: int
    num_threads: int
    device: str

    def fetch_candidates(self) -> Rows:
        """Return the candidates, from the files or the object store."""
        return self.candidates if isinstance(self.candidates, EmbeddingFiles) else ray.get(self.candidates)


class EvaluationActor:
    """Encode, score and search in one process; one file is tokenised while a GPU encodes another."""

    def __init__(self) -> None:
        self._tokenising, self._encoding = Lock(), Lock()
        self._encoders: dict[str, LoadedEncoder] = {}
        self._shards: dict[str, ScoringShard] = {}

    def encode(
        self,
        model: dict[str, Any],
        files: EmbeddingFiles,
        number: int,
        texts: list[str],
        role: Role,
        settings: EvaluationSettings,
        prefixes: Sequence[str] | None = None,
    ) -> int:
        """Write one file of the cache and return its number."""
        if files.file(number).is_file():
            return number
        key = repr(sorted(model.items(), key=str))
        with self._tokenising:
            if key not in self._encoders:
                self._encoders = {key: load_encoder(**model, quiet=True)}
            loaded = self._encoders[key]
            tokens = tokenise(loaded, texts, role, prefixes)
        first = files.rows_of_file(number).start
        with self._encoding:
            rows = encode_rows(loaded, texts, role, settings, first_row=first, tokens=tokens)
        files.write_flags(number, flags_of(tokens))
        files.write_file(number, rows)
        return number

    def run(self, call: Callable[[Item], Result], item: Item) -> Result:
        """Return the result of a function of files."""
        return call(item)

    def relevant_scores(self, task: Task, blocks: range) -> tuple[Any, Any]:
        """Return the scores of the relevant candidates of the shard."""
        return self._shard(task).relevant_scores(blocks)

    def count(self, task: Task, blocks: range, scores: NDArray[np.float32]) -> Counts:
        """Count the candidates of the shard above the scores."""
        return self._shard(task).count(blocks, scores)

    def search(self, task: Task, questions: Rows) -> NDArray[np.uint64]:
        """Return the part's ranked lists through faiss."""
        return part_keys(
            ray.get(task.plan),
            task.blocks,
            questions,
            task.fetch_candidates(),
            task.searched,
            device=torch_device(task.device),
            num_threads=task.num_threads,
        )

    def _shard(self, task: Task) -> ScoringShard:
        """Return the shard of a task; a restarted actor builds it again."""
        if task.key not in self._shards:
            shard = open_shard(
                ray.get(task.plan),
                task.blocks,
                ray.get(task.questions),
                task.fetch_candidates(),
                device=torch_device(task.device),
                candidate_ids=ray.get(task.candidate_ids),
                top_k=task.top_k,
                num_threads=task.num_threads,
            )
            self._shards = {task.key: shard}
        return self._shards[task.key]

    def process_id(self) -> int:
        """Return the id of this process."""
        return os.getpid()

    def with_arithmetic(self, settings: EvaluationSettings) -> tuple[EvaluationSettings, bool]:
        """Return the settings with the arithmetic of this actor's device, and whether that is a GPU."""
        return with_arithmetic(settings), torch_device(settings.device).type != "cpu"
