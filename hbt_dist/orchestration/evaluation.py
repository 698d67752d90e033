"""Evaluate with Ray actors: each encodes a share of the texts, then each ranks against a share of the pool.

    encode   files of the embedding cache are handed out one by one; an actor writes its file in one step
    rank     every actor holds one shard: which scores are its own, then how many of its candidates rank above

Both kinds of work are pure functions of their arguments. Ray restarts an actor that dies and repeats the call
that it was in; files that were finished stay. The digits are those of an evaluation in one process.

The cache folder must be on a file system that all nodes see. Questions travel once through the object store
and are shared by the actors of a node; candidates are read from the cache by the actor that owns them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tqdm.auto import tqdm

from hbt_dist.common.console import say
from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import Settings
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.block_scores import torch_device
from hbt_dist.evaluation.embedding_files import EmbeddingFiles, texts_of
from hbt_dist.evaluation.encode import Role, embedding_files, encode_rows
from hbt_dist.evaluation.evaluation import (
    EmbeddingTransform,
    Evaluation,
    Ranked,
    evaluate_ranked_by,
    question_names,
)
from hbt_dist.evaluation.faiss_lists import merge_parts, part_keys
from hbt_dist.evaluation.matrix_rows import Rows
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.ranks import RelevantRanks, TopLists, rank_relevant
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Counts, Shard, arrange_questions
from hbt_dist.models.encoder import load_encoder
from hbt_dist.orchestration.cluster import Cluster, check_shares, has_gpus, without_gpus


class ActorSettings(Settings):
    """The actors of an evaluation on a Ray cluster."""

    num_actors: int = Field(default=2, ge=1, description="actors; usually one per GPU")
    cpus_per_actor: float = Field(default=1.0, gt=0, description="CPUs that Ray reserves for an actor")
    gpus_per_actor: float | Literal["auto"] = Field(
        default="auto",
        description="GPUs of an actor, fractions allowed; auto: one if the cluster has any",
    )
    max_restarts: int = Field(default=3, ge=0, description="how often a dead actor is started again")
    start_timeout_seconds: float = Field(
        default=600,
        gt=0,
        description="actors that the cluster has not started after so long are done without",
    )


class _Worker:
    """What an actor runs: an encoder, a shard, or one after the other."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}
        self._shards: dict[str, Shard] = {}

    def encode(
        self,
        model: dict[str, Any],
        files: EmbeddingFiles,
        number: int,
        texts: list[str],
        how: tuple[Any, ...],
    ) -> int:
        """Make one file of the cache; returns its number."""
        role, settings = how
        if files.file(number).is_file():
            return number
        key = repr(sorted(model.items(), key=str))
        if key not in self._loaded:
            self._loaded = {key: load_encoder(**model)}
        first = files.rows_of_file(number).start
        files.write_file(number, encode_rows(self._loaded[key], texts, role, settings, first_row=first))
        return number

    def relevant_scores(self, task: dict[str, Any], blocks: range) -> tuple[Any, Any]:
        return self._shard(task).relevant_scores(blocks)

    def count(self, task: dict[str, Any], blocks: range, scores: NDArray[np.float32]) -> Counts:
        return self._shard(task).count(blocks, scores)

    def search(self, task: dict[str, Any], questions: Rows) -> NDArray[np.uint64]:
        """The part's ranked lists through faiss."""
        import ray

        candidates = task["candidates"]
        return part_keys(
            ray.get(task["plan"]),
            task["blocks"],
            questions,
            ray.get(candidates) if isinstance(candidates, ray.ObjectRef) else candidates,
            task["searched"],
            device=torch_device(task["device"]),
            num_threads=task["num_threads"],
        )

    def _shard(self, task: dict[str, Any]) -> Shard:
        """The shard of a task, rebuilt after a restart."""
        import ray

        if task["key"] not in self._shards:
            plan, questions = ray.get([task["plan"], task["questions"]])
            candidates = task["candidates"]
            self._shards = {
                task["key"]: Shard(
                    plan,
                    task["blocks"],
                    questions,
                    ray.get(candidates) if isinstance(candidates, ray.ObjectRef) else candidates,
                    candidate_ids=ray.get(task["ids"]),
                    top_k=task["top_k"],
                    num_threads=task["num_threads"],
                    device=torch_device(task["device"]),
                )
            }
        return self._shards[task["key"]]

    def process_id(self) -> int:
        import os

        return os.getpid()


class _RemoteShard:
    """A shard held by an actor, as `rank_relevant` sees it."""

    def __init__(self, actor: Any, task: dict[str, Any]) -> None:
        self._actor, self._task = actor, task

    def relevant_scores(self, blocks: range) -> tuple[Any, Any]:
        result: tuple[Any, Any] = _get(self._actor.relevant_scores.remote(self._task, blocks))
        return result

    def search(self, questions: Any) -> NDArray[np.uint64]:
        result: NDArray[np.uint64] = _get(self._actor.search.remote(self._task, questions))
        return result

    def count(self, blocks: range, scores: NDArray[np.float32]) -> Counts:
        result: Counts = _get(self._actor.count.remote(self._task, blocks, scores))
        return result


class EvaluationActors:
    """Actors on a connected Ray cluster; use as `with evaluation_actors(settings, cluster) as actors`.

    Work goes to actors that have started only: others may hold what the rest of them waits for.

    Raises:
        UserError: the cluster cannot hold them.
    """

    def __init__(self, settings: ActorSettings, cluster: Cluster) -> None:
        import ray

        share = actor_resources(settings, cluster)
        check_shares(
            cluster, settings.num_actors, share, "actors", lambda _: "ask for fewer actors, or add nodes"
        )
        gpus = share.get("GPU", 0.0)
        hidden: dict[str, Any] = {} if gpus else {"runtime_env": without_gpus()}
        remote: Any = ray.remote(
            num_cpus=settings.cpus_per_actor,
            num_gpus=gpus,
            max_restarts=settings.max_restarts,
            max_task_retries=settings.max_restarts,
            **hidden,
        )(_Worker)
        self.settings, self._cluster = settings, cluster
        self.handles: list[Any] = [remote.remote() for _ in range(settings.num_actors)]
        self._up: list[Any] = []
        self._starting = {handle.process_id.remote(): handle for handle in self.handles}
        self._deadline = time.monotonic() + settings.start_timeout_seconds

    def _has_started(self, ping: Any) -> Any:
        """Note that an actor has answered; gives it."""
        handle = self._starting.pop(ping)
        _get(ping)
        self._up.append(handle)
        return handle

    def _started(self) -> list[Any]:
        """The actors, once all have started or time is up.

        Raises:
            UserError: not one has started.
        """
        import ray

        if self._starting:
            left = max(0.0, self._deadline - time.monotonic())
            ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=left)
            for ping in ready:
                self._has_started(ping)
        if not self._up:
            raise self._none_started()
        if self._starting:
            say(f"{len(self._up)} of {self.settings.num_actors} actors have started: going on with these")
        return list(self._up)

    def _none_started(self) -> UserError:
        return UserError(
            "actors",
            f"the cluster at {self._cluster.address} has started none within "
            f"{self.settings.start_timeout_seconds:g} s",
            "'ray status' there tells who holds its CPUs and GPUs: wait for that, or add nodes",
        )

    def close(self) -> None:
        """End the actors."""
        import ray

        for handle in self.handles:
            ray.kill(handle)

    def encode(
        self,
        model: dict[str, Any],
        texts: Sequence[str],
        role: Role,
        settings: EvaluationSettings,
        *,
        progress: bool = True,
    ) -> EmbeddingFiles:
        """Fill the cache for `texts`, file by file, each by the next actor that is free.

        Args:
            model: arguments of `load_encoder`, the same for every actor.
            texts: n texts.
            role: question or passage.
            settings: precision, batch size, file size, and the cache folder, which must be set.
        """
        import ray

        if settings.cache_dir is None:
            raise UserError(
                "evaluation.cache_dir",
                "is not set",
                "actors hand embeddings over through a folder: name one that all nodes see",
            )
        files = embedding_files(load_encoder(**model), texts, role, settings)
        waiting = files.missing()
        done = len(texts) - sum(len(files.rows_of_file(number)) for number in waiting)
        idle = list(self._up)
        running: dict[Any, Any] = {}
        with tqdm(
            total=len(texts), initial=done, desc=f"encode {role}s", unit=" rows", disable=not progress
        ) as bar:
            while waiting or running:
                while idle and waiting:
                    number, handle = waiting.pop(0), idle.pop(0)
                    here = texts_of(texts, files.rows_of_file(number))
                    running[handle.encode.remote(model, files, number, here, (role, settings))] = handle
                left = None if running or idle else max(0.0, self._deadline - time.monotonic())
                ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=left)
                if not ready:
                    raise self._none_started()
                if ready[0] in running:
                    bar.update(len(files.rows_of_file(_get(ready[0]))))
                    idle.append(running.pop(ready[0]))
                else:
                    idle.append(self._has_started(ready[0]))
        return files

    def rank(
        self,
        benchmark: Benchmark,
        plan: ScoringPlan,
        questions: Rows,
        candidates: Rows,
        settings: EvaluationSettings,
    ) -> tuple[RelevantRanks, TopLists | None]:
        """Ranks with one shard per actor that has started; their number changes no digit."""
        import ray

        handles = self._started()
        in_store = {
            "plan": ray.put(plan),
            "questions": ray.put(arrange_questions(plan, questions, question_names(benchmark))),
            "candidates": candidates if isinstance(candidates, EmbeddingFiles) else ray.put(candidates),
            "ids": ray.put(benchmark.candidate_ids),
        }
        shards = []
        top_k = min(settings.top_k, plan.num_candidates)
        searched = top_k if settings.ranked_lists == "faiss" else 0
        for number, blocks in enumerate(plan.shard_blocks(len(handles))):
            task = {
                **in_store,
                "key": f"{benchmark.fingerprint}-{number}-{id(in_store)}",
                "blocks": blocks,
                "top_k": top_k - searched,
                "searched": searched,
                "num_threads": settings.num_threads or max(1, int(self.settings.cpus_per_actor)),
                "device": settings.device,
            }
            shards.append(_RemoteShard(handles[number], task))
        with ThreadPoolExecutor(len(shards)) as pool:
            ranks, top = rank_relevant(
                plan, shards, map_shards=lambda call, parts: list(pool.map(call, parts))
            )
            if searched:
                asked = questions if isinstance(questions, EmbeddingFiles) else ray.put(questions)
                top = merge_parts(plan, list(pool.map(lambda shard: shard.search(asked), shards)))
        return ranks, top


def actor_resources(settings: ActorSettings, cluster: Cluster) -> dict[str, float]:
    """What Ray reserves for one actor."""
    gpus = settings.gpus_per_actor
    if gpus == "auto":
        gpus = float(has_gpus(cluster))
    return {"CPU": settings.cpus_per_actor, **({"GPU": gpus} if gpus else {})}


@contextmanager
def evaluation_actors(settings: ActorSettings, cluster: Cluster) -> Iterator[EvaluationActors]:
    """Actors that end with the block.

    Args:
        cluster: from `hbt_dist.orchestration.cluster.connect`.

    Raises:
        UserError: the cluster cannot hold them.
    """
    actors = EvaluationActors(settings, cluster)
    try:
        yield actors
    finally:
        actors.close()


def _get(reference: Any) -> Any:
    """The result of a call; an error that the user can mend comes out as itself."""
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def evaluate_with_actors(
    actors: EvaluationActors,
    model: dict[str, Any],
    benchmark: Benchmark,
    settings: EvaluationSettings,
    *,
    seen_languages: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
    transform: EmbeddingTransform | None = None,
) -> Evaluation:
    """Encode and rank a benchmark on a cluster; the counterpart of encoding and `evaluate` in one process.

    Args:
        actors: from `evaluation_actors`, inside `hbt_dist.orchestration.cluster.connect`.
        model: arguments of `load_encoder`; paths must be valid on every node.
        benchmark: what to evaluate on.
        settings: `cache_dir` must be set; `num_shards` is the number of actors here.
        transform: see `evaluate`.
    """
    questions: Rows
    candidates: Rows
    questions = actors.encode(model, benchmark.question_texts, "question", settings, progress=progress)
    candidates = actors.encode(model, benchmark.candidate_texts, "passage", settings, progress=progress)

    def rank(plan: ScoringPlan, questions: Rows, candidates: Rows) -> Ranked:
        return actors.rank(benchmark, plan, questions, candidates, settings)

    return evaluate_ranked_by(
        rank,
        benchmark,
        questions,
        candidates,
        settings=settings,
        seen_languages=seen_languages,
        provenance=provenance,
        transform=transform,
    )
