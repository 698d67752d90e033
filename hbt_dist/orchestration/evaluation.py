"""Evaluate with Ray actors: each encodes a share of the texts, then ranks against a share of the pool.

    encode   actors fill the files of the embedding cache, one file at a time, each written atomically
    rank     every actor holds one shard: the scores of its relevant candidates, then how many rank above

Both are pure functions of their arguments. Ray restarts an actor that dies and repeats its call; finished
files stay. The result equals that of one process in every digit.

All nodes must see the cache folder. Questions travel once through the object store, and the actors of a node
share them; each actor reads its candidates from the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray
from ray import ObjectRef

from hbt_dist.common.console import Progress, say
from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.embedding_files import EmbeddingFiles, Role, texts_of
from hbt_dist.evaluation.encode import embedding_files, prefixes_by_language
from hbt_dist.evaluation.evaluation import (
    EmbeddingTransform,
    Evaluation,
    evaluate,
    question_names,
)
from hbt_dist.evaluation.faiss_lists import merge_parts
from hbt_dist.evaluation.matrix_rows import Rows
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.ranks import RelevantRanks, TopLists, rank_relevant
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.shard import Counts, arrange_questions
from hbt_dist.evaluation.text_counts import text_counts
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.orchestration.cluster import Cluster, check_shares, has_gpus, hidden_gpus
from hbt_dist.orchestration.evaluation_actor import EvaluationActor, Task

Item = TypeVar("Item")
Result = TypeVar("Result")
_FILES_PER_GPU = 2


class _RemoteShard:
    """Give `rank_relevant` the shard of an actor."""

    def __init__(self, actor: Any, task: Task) -> None:
        self._actor, self._task = actor, task

    def relevant_scores(self, blocks: range) -> tuple[Any, Any]:
        return _get(self._actor.relevant_scores.remote(self._task, blocks))

    def count(self, blocks: range, scores: NDArray[np.float32]) -> Counts:
        return _get(self._actor.count.remote(self._task, blocks, scores))

    def search(self, questions: Any) -> NDArray[np.uint64]:
        return _get(self._actor.search.remote(self._task, questions))


class EvaluationActors:
    """Start actors on a connected Ray cluster; they end with the `with` block.

    Only actors that have started receive work: the resources of the rest may be in use.

    Args:
        cluster: from `hbt_dist.orchestration.cluster.connect`.
        num_actors: usually one per GPU.
        cpus: CPUs that Ray reserves for an actor.
        gpus: GPUs of an actor, fractions allowed; default: one if the cluster has any.
        max_restarts: number of restarts of a dead actor.
        start_timeout_seconds: actors that start later receive no work.

    Raises:
        UserError: the cluster cannot hold them.
    """

    def __init__(
        self,
        cluster: Cluster,
        num_actors: int = 2,
        *,
        cpus: float = 1.0,
        gpus: float | None = None,
        max_restarts: int = 3,
        start_timeout_seconds: float = 600.0,
    ) -> None:
        gpus = float(has_gpus(cluster)) if gpus is None else gpus
        share = {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}
        check_shares(cluster, num_actors, share, "actors", lambda _: "request fewer actors, or add nodes")
        actor: Any = ray.remote(EvaluationActor)
        actor = actor.options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_concurrency=_FILES_PER_GPU,
            max_restarts=max_restarts,
            max_task_retries=max_restarts,
            runtime_env=hidden_gpus(gpus) or None,
        )
        self._address, self._cpus, self._timeout = cluster.address, cpus, start_timeout_seconds
        self.on_gpu = False  # known from `with_arithmetic` on
        self.handles: list[Any] = [actor.remote() for _ in range(num_actors)]
        self._started: list[Any] = []
        self._starting = {handle.process_id.remote(): handle for handle in self.handles}
        self._deadline = time.monotonic() + start_timeout_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            ray.kill(handle)

    def with_arithmetic(self, settings: EvaluationSettings) -> EvaluationSettings:
        """Return the settings with the arithmetic that `dtype: auto` means for the first actor that starts.

        Raises:
            UserError: no actor has started, or it has no such device.
        """
        if not self._started:
            left = max(0.0, self._deadline - time.monotonic())
            ready, _ = ray.wait(list(self._starting), num_returns=1, timeout=left)
            if not ready:
                raise self._no_start()
            self._note_start(ready[0])
        resolved, self.on_gpu = _get(self._started[0].with_arithmetic.remote(settings))
        return resolved

    def _note_start(self, ping: Any) -> Any:
        """Record that an actor has answered and return its handle."""
        handle = self._starting.pop(ping)
        _get(ping)
        self._started.append(handle)
        return handle

    def _wait_for_starts(self) -> list[Any]:
        """Return the started actors, once all have started or the time is up.

        Raises:
            UserError: no actor has started.
        """
        if self._starting:
            left = max(0.0, self._deadline - time.monotonic())
            ready, _ = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=left)
            for ping in ready:
                self._note_start(ping)
        if not self._started:
            raise self._no_start()
        if self._starting:
            say(f"{len(self._started)} of {len(self.handles)} actors have started; continuing with these")
        return list(self._started)

    def _no_start(self) -> UserError:
        return UserError(
            "actors",
            f"the cluster at {self._address} has started none within {self._timeout:g} s",
            "run 'ray status' on it to see who uses its CPUs and GPUs: wait for them, or add nodes",
        )

    def encode(
        self,
        model: dict[str, Any],
        texts: Sequence[str],
        role: Role,
        settings: EvaluationSettings,
        *,
        prefixes: Sequence[str] | None = None,
        loaded: LoadedEncoder | None = None,
        progress: bool = True,
    ) -> EmbeddingFiles:
        """Fill the cache for `texts`, file by file, each by the next free actor.

        Args:
            model: arguments of `load_encoder`, the same for every actor.
            texts: n texts.
            role: question or passage.
            settings: precision, batch size, file size, and the cache folder, which must be set.
            prefixes: of each text, see `prefixes_by_language`; default: the role's.
            loaded: the same encoder in this process; default: loaded here.
        """
        if settings.cache_dir is None:
            raise UserError(
                "evaluation.cache_dir",
                "is not set",
                "set it to a folder that all nodes see: actors exchange embeddings through it",
            )
        loaded = loaded or load_encoder(**model, quiet=True)
        files = embedding_files(loaded, texts, role, settings, prefixes)
        waiting = files.missing()
        done = len(texts) - sum(len(files.rows_of_file(number)) for number in waiting)
        at_once = _FILES_PER_GPU if self.on_gpu else 1

        def start(handle: Any, number: int) -> Any:
            rows = files.rows_of_file(number)
            chosen = None if prefixes is None else prefixes[rows.start : rows.stop]
            return handle.encode.remote(model, files, number, texts_of(texts, rows), role, settings, chosen)

        with Progress(
            len(texts), f"encode {role}s", initial=done, disable=not progress, first_seconds=1.0
        ) as bar:
            for number in self._deal(waiting, start, at_once):
                bar.update(len(files.rows_of_file(number)))
        return files

    def run(self, call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the results of a pure function of files, each item by the next free actor, as they finish.

        Args:
            call: a function that Ray can send to the actors; a repeated call must give the same result.
            items: its arguments.
        """
        function = ray.put(call)
        return self._deal(items, lambda handle, item: handle.run.remote(function, item))

    def _deal(
        self, items: Sequence[Item], start: Callable[[Any, Item], ObjectRef[Result]], at_once: int = 1
    ) -> Iterator[Result]:
        """Yield the results of calls in the order in which they finish.

        Args:
            items: one call each.
            start: calls a started actor with an item.
            at_once: calls that an actor holds at the same time.

        Raises:
            UserError: no actor has started in time.
        """
        waiting, idle = list(items), self._started * at_once
        running: dict[Any, Any] = {}
        while waiting or running:
            while idle and waiting:
                handle = idle.pop(0)
                running[start(handle, waiting.pop(0))] = handle
            left = None if running or idle else max(0.0, self._deadline - time.monotonic())
            ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=left)
            if not ready:
                raise self._no_start()
            if ready[0] in running:
                idle.append(running.pop(ready[0]))
                yield _get(ready[0])
            else:
                idle += [self._note_start(ready[0])] * at_once

    def rank(
        self,
        benchmark: Benchmark,
        plan: ScoringPlan,
        questions: Rows,
        candidates: Rows,
        settings: EvaluationSettings,
    ) -> tuple[RelevantRanks, TopLists | None]:
        """Return ranks, with one shard per started actor; the number of shards changes no digit."""
        handles = self._wait_for_starts()
        plan_ref = ray.put(plan)
        questions_ref = ray.put(arrange_questions(plan, questions, question_names(benchmark)))
        candidates_ref = candidates if isinstance(candidates, EmbeddingFiles) else ray.put(candidates)
        ids_ref = ray.put(benchmark.candidate_ids)
        top_k = plan.num_kept(settings.top_k)
        searched = top_k if settings.ranked_lists == "faiss" else 0
        shards = [
            _RemoteShard(
                handle,
                Task(
                    key=f"{benchmark.fingerprint}-{number}-{plan_ref.hex()}",
                    blocks=blocks,
                    plan=plan_ref,
                    questions=questions_ref,
                    candidates=candidates_ref,
                    candidate_ids=ids_ref,
                    top_k=top_k - searched,
                    searched=searched,
                    num_threads=settings.num_threads or max(1, int(self._cpus)),
                    device=settings.device,
                ),
            )
            for number, (handle, blocks) in enumerate(
                zip(handles, plan.shard_blocks(len(handles)), strict=False)
            )
        ]
        with ThreadPoolExecutor(len(shards)) as pool:
            ranks, top = rank_relevant(
                plan, shards, map_shards=lambda call, parts: list(pool.map(call, parts))
            )
            if searched:
                rows = questions if isinstance(questions, EmbeddingFiles) else ray.put(questions)
                top = merge_parts(plan, list(pool.map(lambda shard: shard.search(rows), shards)))
        return ranks, top


def _get(reference: ObjectRef[Result]) -> Result:
    """Return the result of a call; a `UserError` of the actor is raised as it is."""
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
    loaded: LoadedEncoder | None = None,
) -> Evaluation:
    """Encode and rank a benchmark on a cluster, as encoding and `evaluate` do in one process.

    Args:
        actors: inside `hbt_dist.orchestration.cluster.connect`.
        model: arguments of `load_encoder`; paths must be valid on every node.
        benchmark: the benchmark to evaluate on.
        settings: `cache_dir` must be set; `num_shards` is the number of actors here.
        transform: see `evaluate`.
        loaded: the encoder in this process; default: loaded here.
    """
    settings = actors.with_arithmetic(settings)
    loaded = loaded or load_encoder(**model, quiet=True)
    how: dict[str, Any] = {"loaded": loaded, "progress": progress}
    of_questions = prefixes_by_language(loaded, benchmark, "question")
    of_candidates = prefixes_by_language(loaded, benchmark, "passage")
    questions = actors.encode(
        model, benchmark.question_texts, "question", settings, prefixes=of_questions, **how
    )
    candidates = actors.encode(
        model, benchmark.candidate_texts, "passage", settings, prefixes=of_candidates, **how
    )
    return evaluate(
        benchmark,
        questions,
        candidates,
        rank=actors.rank,
        on_gpu=actors.on_gpu,
        settings=settings,
        seen_languages=seen_languages,
        provenance=provenance,
        transform=transform,
        texts=text_counts(benchmark, loaded.text, questions.flags(), candidates.flags()),
        normalized=loaded.text.normalize,
    )
