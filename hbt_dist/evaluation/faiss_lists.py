"""Search the best k candidates of every question with faiss, exactly, part by part.

Ranks are counted, not searched (`shard.py`); where lists are wanted as well (TREC runs, same-language share)
they can come from faiss's flat inner-product search, on the GPU of the settings' device where faiss was
built for GPUs, else on the CPU, with a note. Each part of the pool (a shard in this process, or an actor with
its own GPU) searches its own candidates; parts are merged by 64-bit keys of score and id, the evaluator's
order. Lists are exact: flat search leaves nothing out, and where scores are equal at the end of a list,
which faiss cuts as it likes, the question is searched again deeper, if need be through the whole part. faiss
on a GPU finds at most 2,048 neighbours; deeper searches use the CPU.

Scores are faiss's own float32 sums: they can differ from the evaluator's in the last bit, and with them the
order of candidates whose scores are that close. Adds one product, and a block of candidates in memory, to the
cost of the counting pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.common.console import counted, note
from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.block_scores import best_keys, ranking_keys
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, read_rows
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.ranks import TopLists, lists_of_keys

GPU_LIMIT = 2048
#: Work memory on a GPU; faiss would take 1.5 GB more than encoder and scores. It works in tiles of this size.
GPU_BYTES = 2**28
_BLOCK_ROWS = 2**17
_QUESTIONS = 4096
_MARGIN = 16  # searched beyond k, to see whether the list ends in a tie

Keys = NDArray[np.uint64]
#: (n, D) questions, k -> scores and rows of a block, (n, k), best first.
Search = Callable[[Float32, int], tuple[Float32, Int64]]


def load_faiss(
    setting: str = "evaluation.scoring.ranked_lists: faiss", instead: str = ", or set ranked_lists: counted"
) -> Any:
    """Import faiss, GPU or CPU build.

    Args:
        setting: what needs faiss, for the message.
        instead: end of the remedy, what works without faiss.

    Raises:
        UserError: none is installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            setting,
            f"faiss cannot be imported: {error}",
            f"install hbt-dist[cpu] or hbt-dist[gpu]{instead}",
        ) from error
    return faiss


def part_keys(
    plan: ScoringPlan,
    blocks: range,
    questions: Rows,
    candidates: Rows,
    k: int,
    *,
    device: torch.device,
    num_threads: int = 0,
) -> Keys:
    """Return the k best keys of every question among the candidates of some blocks of the plan.

    Args:
        plan: order of the candidates.
        blocks: candidate blocks of the part.
        questions: (Q, D) in the benchmark's order.
        candidates: (N, D) in the benchmark's order; only the part's rows are read.
        k: length of the lists.
        device: where to search; on the CPU, with a note, if it is a GPU that this build of faiss cannot use.
        num_threads: of faiss on the CPU; 0 leaves its own.

    Returns:
        (Q, k) unordered; 0 where the part has fewer candidates.

    Raises:
        UserError: faiss is not installed.
    """
    faiss = load_faiss()
    if num_threads:
        faiss.omp_set_num_threads(num_threads)
    searcher = open_searcher(faiss, device)
    start = blocks.start * plan.block_candidates
    stop = min(blocks.stop * plan.block_candidates, plan.num_candidates)
    best = np.zeros((questions.shape[0], k), np.uint64)
    for first in range(start, stop, _BLOCK_ROWS):
        last = min(first + _BLOCK_ROWS, stop)
        rows = slice(first, last) if plan.candidate_order is None else plan.candidate_order[first:last]
        block = np.empty((last - first, candidates.shape[1]), np.float32)
        read_rows(candidates, rows, block)
        order = plan.id_order[first:last]
        search = searcher(block)
        for start_question in range(0, len(best), _QUESTIONS):
            block_questions = np.ascontiguousarray(
                questions[start_question : start_question + _QUESTIONS], np.float32
            )
            keys = _block_keys(search, block_questions, order, k)
            kept = best[start_question : start_question + _QUESTIONS]
            kept[:] = best_keys([kept, keys], k)
    return best


def _block_keys(search: Search, questions: Float32, id_order: NDArray[Any], k: int) -> Keys:
    """The k best keys of each question in one block; (n, min(k, rows))."""
    num_rows = len(id_order)
    kept = min(k, num_rows)
    keys = np.empty((len(questions), kept), np.uint64)
    todo = np.arange(len(questions))
    depth = min(num_rows, k + _MARGIN)
    while len(todo):
        scores, rows = search(questions[todo], depth)
        # Sorted by faiss, best first. Safe if the list ends before the last score that was found.
        safe = np.full(len(todo), True) if depth == num_rows else scores[:, kept - 1] > scores[:, -1]
        best = ranking_keys(np.ascontiguousarray(scores[safe]), id_order[rows[safe]].astype(np.uint32))
        keys[todo[safe]] = best_keys([best], kept)
        todo = todo[~safe]
        depth = min(num_rows, 4 * depth)
    return keys


def open_searcher(faiss: Any, device: torch.device) -> Callable[[Float32], Search]:
    """Return what makes an exact search on a device from the (rows, D) vectors of a block."""
    gpu = device.index or 0
    visible = faiss.get_num_gpus() if device.type == "cuda" and hasattr(faiss, "GpuIndexFlatIP") else 0
    if device.type != "cpu" and gpu >= visible:
        _note_cpu(f"this build of faiss sees {counted(visible, 'GPU')}, not {device}")

    def open_block(block: Float32) -> Search:
        @cache
        def on_gpu() -> Any:  # copies the block once, for all its questions
            config = faiss.GpuIndexFlatConfig()
            config.device = gpu
            index = faiss.GpuIndexFlatIP(_gpu_resources(faiss), block.shape[1], config)
            index.add(block)
            return index

        def search(questions: Float32, depth: int) -> tuple[Float32, Int64]:
            if gpu < visible and depth <= GPU_LIMIT:
                scores, rows = on_gpu().search(questions, depth)
            else:
                if gpu < visible:
                    _note_cpu(f"lists of {depth:,}; it finds at most {GPU_LIMIT:,} on a GPU")
                scores, rows = faiss.knn(questions, block, depth, metric=faiss.METRIC_INNER_PRODUCT)
            return np.asarray(scores, np.float32), np.asarray(rows, np.int64)

        return search

    return open_block


@cache
def _note_cpu(reason: str) -> None:
    """Print once per process why faiss searches on the CPU."""
    note(f"faiss searches on the CPU: {reason}")


@cache
def _gpu_resources(faiss: Any) -> Any:
    """Streams and work memory of the GPUs in use, once in a process: allocating them waits for the GPU."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_BYTES)
    return resources


def merge_parts(plan: ScoringPlan, parts: Sequence[Keys]) -> TopLists:
    """Merge the keys of all parts into the lists of the whole pool, best first."""
    return lists_of_keys(plan, best_keys(parts, parts[0].shape[1]))


def faiss_top_lists(
    plan: ScoringPlan,
    questions: Rows,
    candidates: Rows,
    k: int,
    *,
    device: torch.device,
    num_shards: int = 1,
    num_threads: int = 0,
) -> TopLists:
    """Search the best k candidates of every question, all parts in this process.

    Args:
        questions: (Q, D).
        candidates: (N, D).
        device: see `part_keys`.
        num_shards: parts of the pool; the lists are the same for every number.

    Raises:
        UserError: faiss is not installed.
    """
    parts = [
        part_keys(plan, blocks, questions, candidates, k, device=device, num_threads=num_threads)
        for blocks in plan.shard_blocks(num_shards)
    ]
    return merge_parts(plan, parts)
