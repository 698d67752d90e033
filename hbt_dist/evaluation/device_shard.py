"""Score one part of the candidate pool on a GPU, where thresholds, counts and ranked lists stay to the end.

The host reads and checks candidate blocks in threads, copies them from pinned memory, and queues products and
comparisons. It waits for the GPU once per call, when the result comes down; a reading thread also waits until
the copy from its buffer has ended. The scores of a pair come from the same product as those that they are
compared with, so the product of a block that holds relevant pairs is made twice.

Predicted for an H200, width 768, by `benchmarks/gpu/evaluator.py`: product of a block of 8,192 x 8,192 2 ms,
counts 0.3 ms with one relevant candidate per question, ranked lists of 100 2 ms; 10,000 questions against 10
million candidates 13 s. Memory: questions, `cache_bytes` of candidates, 0.8 GB per block, with ranked lists
1.1 GB.

Shapes: B questions and C candidates of a block, P relevant pairs compared at once, m pairs of a call, D
embedding width, k length of the ranked lists.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.common.precision import products
from hbt_dist.evaluation.candidate_blocks import CandidateBlocks
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows
from hbt_dist.evaluation.plan import ScoringPlan
from hbt_dist.evaluation.shard import CACHE_BYTES, Counts, Shard

DEVICE_CACHE_BYTES = 2**31  # of candidates: 700,000 of width 768
MOST_READERS = 4  # each has a buffer of pinned memory: 25 MB at width 768
GROUP = 8  # keys
#: The key below all keys of a candidate.
NO_KEY = torch.iinfo(torch.int64).min


class DeviceShard:
    """Scores of all questions against a run of candidate blocks, as `Shard` gives them.

    Args:
        plan: the grid that all shards share.
        candidate_blocks: blocks of this shard.
        questions: (question blocks * block_questions, D) from `arrange_questions`.
        candidates: the whole (N, D) matrix; only this shard's rows are read.
        device: torch device.
        candidate_ids: of the whole benchmark, for error messages.
        top_k: length of the ranked lists to keep, 0 for none.
        num_threads: blocks read at a time, at most four.
        cache_bytes: candidates to keep on the device between `relevant_scores` and `count`.
    """

    blocks_at_once = 0  # all question blocks in one round

    def __init__(
        self,
        plan: ScoringPlan,
        candidate_blocks: range,
        questions: Float32,
        candidates: Rows,
        *,
        device: torch.device,
        candidate_ids: Sequence[str] | None = None,
        top_k: int = 0,
        num_threads: int = 1,
        cache_bytes: int = DEVICE_CACHE_BYTES,
    ) -> None:
        self.plan, self.blocks, self.device = plan, candidate_blocks, device
        self.top_k, self.num_readers = top_k, min(num_threads, MOST_READERS)
        self._questions = torch.from_numpy(questions).to(device)
        self._candidates = CandidateBlocks(plan, candidates, candidate_ids)
        self._scores_BC = torch.empty((plan.block_questions, plan.block_candidates), device=device)
        self._kept: dict[int, Tensor] = {}
        self._most_kept = cache_bytes // (4 * plan.block_candidates * questions.shape[1])

    def relevant_scores(self, blocks: range) -> tuple[Int64, Float32]:
        """Scores of the relevant pairs whose candidate this shard owns.

        Returns:
            indices of those pairs (in the plan's order) and their scores, each from the very product with
            which `count` compares it.

        Raises:
            UserError: a candidate vector that cannot be ranked.
        """
        plan = self.plan
        owned = plan.owned_pairs(blocks, self.blocks)
        order = np.lexsort((owned.question_block, owned.candidate_block))
        # Pairs of one block lie together now: its number in the whole grid, and where it starts and stops.
        grid = (owned.candidate_block * plan.num_question_blocks + owned.question_block)[order]
        numbers, starts = np.unique(grid, return_index=True)
        parts: dict[int, list[tuple[int, slice]]] = {}
        edges = [*starts.tolist(), len(grid)]
        for number, (start, stop) in zip(numbers.tolist(), pairwise(edges), strict=True):
            candidate_block, block = divmod(number, plan.num_question_blocks)
            parts.setdefault(candidate_block, []).append((block, slice(start, stop)))

        cell = move(torch.from_numpy((owned.row * plan.block_candidates + owned.column)[order]), self.device)
        scores = torch.empty(len(grid), device=self.device)
        with products("ieee"):
            for candidate_block, block_CD in self._uploaded(list(parts)):
                for block, part in parts[candidate_block]:
                    scores[part] = self._product(block, block_CD).flatten().index_select(0, cell[part])
        return owned.number[order], scores.cpu().numpy()

    def count(self, blocks: range, scores: Float32) -> Counts:
        """Count this shard's candidates above each relevant pair of the question `blocks`.

        Args:
            blocks: question blocks.
            scores: of all relevant pairs of those blocks, from their owners.
        """
        plan = self.plan
        counts = RelevantCounts(plan, blocks, scores, self.device)
        first_place, last_place = plan.question_places(blocks[0]).start, plan.question_places(blocks[-1]).stop
        top = torch.full((last_place - first_place, self.top_k), NO_KEY, device=self.device)
        with products("ieee"):
            for candidate_block, block_CD in self._uploaded(self.blocks):
                positions = plan.candidate_positions(candidate_block)
                id_order_C = move(torch.from_numpy(plan.id_order[positions].astype(np.int64)), self.device)
                pieces = plan.pieces(candidate_block)
                for block in blocks:
                    scores_BC = self._product(block, block_CD)[:, : len(id_order_C)]
                    counts.add(block, scores_BC, id_order_C, pieces)
                    if self.top_k:
                        questions = plan.question_places(block)
                        kept = top[questions.start - first_place : questions.stop - first_place]
                        kept.copy_(merge_top(kept, scores_BC[: len(kept)], id_order_C))
        self._kept.clear()
        result = torch.cat([counts.totals.flatten(), top.flatten()]).cpu().numpy()  # the only wait
        higher, in_language, tied = result[: 3 * len(scores)].reshape(3, -1)
        tied[plan.owned_pairs(blocks, self.blocks).number - plan.relevant_range(blocks[0]).start] -= 1
        keys = result[3 * len(scores) :].reshape(top.shape)
        return Counts(higher, in_language, tied, keys_from_device(keys) if self.top_k else None)

    def _product(self, block: int, block_CD: Tensor) -> Tensor:
        """Return the scores of a question block (B, C), in a buffer that the next product overwrites."""
        start = block * self.plan.block_questions
        questions_BD = self._questions[start : start + self.plan.block_questions]
        return torch.mm(questions_BD, block_CD.T, out=self._scores_BC)

    def _uploaded(self, blocks: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield each candidate block with its vectors (C, D) on the device; threads read ahead."""
        missing = [block for block in blocks if block not in self._kept]
        to_read, num_buffers = iter(missing), min(len(missing), self.num_readers + 1)
        reading: deque[tuple[_Buffer, Any]] = deque()
        shape = (self.plan.block_candidates, self._questions.shape[1])
        with ThreadPoolExecutor(self.num_readers) as pool:

            def read_next(buffers: Iterable[_Buffer]) -> None:
                for buffer, block in zip(buffers, to_read, strict=False):
                    reading.append((buffer, pool.submit(buffer.fill, self._candidates, block)))

            read_next(_Buffer.new(shape, self.device) for _ in range(num_buffers))
            for block in blocks:
                block_CD = self._kept.get(block)
                if block_CD is None:
                    buffer, read = reading.popleft()
                    read.result()  # raises what reading raised
                    block_CD = buffer.upload(self.device)
                    read_next([buffer])
                    if len(self._kept) < self._most_kept:
                        self._kept[block] = block_CD
                yield block, block_CD


def open_shard(
    plan: ScoringPlan,
    candidate_blocks: range,
    questions: Float32,
    candidates: Rows,
    *,
    device: torch.device,
    candidate_ids: Sequence[str],
    top_k: int,
    num_threads: int,
    num_shards: int = 1,
) -> Shard | DeviceShard:
    """Return the shard for a device, see `DeviceShard`.

    Args:
        num_shards: shards of this process, which share the memory for scores or candidates.
    """
    options: dict[str, Any] = {
        "candidate_ids": candidate_ids,
        "top_k": top_k,
        "num_threads": num_threads,
    }
    if device.type == "cpu":
        options["cache_bytes"] = CACHE_BYTES // num_shards
        return Shard(plan, candidate_blocks, questions, candidates, **options)
    options["cache_bytes"] = DEVICE_CACHE_BYTES // num_shards
    return DeviceShard(plan, candidate_blocks, questions, candidates, device=device, **options)


@dataclass
class _Buffer:
    """Host memory for one candidate block on its way to the device."""

    rows: Tensor  # (C, D), pinned for a GPU
    values: Float32  # the same memory
    copied: Any = None  # event after the last copy to a GPU

    @classmethod
    def new(cls, shape: tuple[int, int], device: torch.device) -> _Buffer:
        rows = torch.empty(shape)
        if device.type != "cuda":
            return cls(rows, rows.numpy())
        rows = rows.pin_memory()
        return cls(rows, rows.numpy(), torch.cuda.Event())

    def fill(self, candidates: CandidateBlocks, block: int) -> None:
        """Read a block, once the last one has left; called in a thread."""
        if self.copied is not None:
            self.copied.synchronize()
        candidates.read(block, self.values)

    def upload(self, device: torch.device) -> Tensor:
        """Queue the copy of the block and return it."""
        result = self.rows.to(device, non_blocking=True, copy=True)
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(device))
        return result


class RelevantCounts:
    """The relevant pairs of some question blocks and their counts, on a device.

    Args:
        plan: gives the pairs.
        blocks: question blocks.
        scores: (m,) of the pairs.
        device: torch device.
    """

    def __init__(self, plan: ScoringPlan, blocks: range, scores: Float32, device: torch.device) -> None:
        pairs, question = plan.pairs_of(blocks)
        position = plan.relevant_position[pairs]
        row = question % plan.block_questions
        facts = np.stack([row, plan.id_order[position].astype(np.int64), plan.language_of(position)])
        self._row, self._id_order, self._language = move(torch.from_numpy(facts), device)
        self._threshold = move(torch.from_numpy(scores), device)
        #: (3, m): candidates above, those of them in the language of the pair's candidate, equal scores.
        self.totals = torch.zeros((3, len(scores)), dtype=torch.int64, device=device)
        self._chunks: dict[int, list[tuple[slice, slice | None]]] = {}
        for block in blocks:
            of_block = plan.relevant_range(block)
            start, stop = of_block.start - pairs.start, of_block.stop - pairs.start
            edges = [*range(start, stop, plan.block_questions), stop]
            self._chunks[block] = [(slice(a, b), _as_slice(row[a:b])) for a, b in pairwise(edges)]

    def add(
        self, block: int, scores_BC: Tensor, id_order_C: Tensor, pieces: list[tuple[int, int, int]]
    ) -> None:
        """Add the candidates of a block of scores.

        Args:
            block: question block.
            scores_BC: (B, C).
            id_order_C: (C,) among equal scores the larger ranks above.
            pieces: (start, stop, language) of the candidates.
        """
        for pairs, rows in self._chunks[block]:
            part_PC = scores_BC[rows] if rows else scores_BC.index_select(0, self._row[pairs])
            threshold_P1 = self._threshold[pairs, None]
            ahead_PC = part_PC == threshold_P1
            higher, in_language, tied = self.totals[:, pairs]
            tied += ahead_PC.sum(dim=1)
            ahead_PC &= id_order_C > self._id_order[pairs, None]
            ahead_PC |= part_PC > threshold_P1
            for start, stop, language in pieces:
                ahead_P = ahead_PC[:, start:stop].sum(dim=1)
                higher += ahead_P
                in_language += ahead_P * (self._language[pairs] == language)


def _as_slice(rows: Int64) -> slice | None:
    """Return consecutive ascending rows as a slice, which is read without a copy."""
    consecutive = bool((np.diff(rows) == 1).all())
    return slice(int(rows[0]), int(rows[-1]) + 1) if consecutive else None


def merge_top(top_Bk: Tensor, scores_BC: Tensor, id_order_C: Tensor) -> Tensor:
    """Return the k largest keys of each question among the kept ones and those of a block."""
    k = top_Bk.shape[1]
    keys = [top_Bk, *_likely_top(device_keys(scores_BC, id_order_C), k)]
    return torch.cat(keys, dim=1).topk(k, dim=1, sorted=False).values


def _likely_top(keys_BC: Tensor, k: int) -> list[Tensor]:
    """Return keys with the k largest of each row among them: the k groups of eight with the largest maxima.

    Keys are distinct, so a group with one of the k largest has a maximum that fewer than k others exceed. A
    selection reads its input 32 times, and these are an eighth and a tenth of a block.
    """
    grouped = keys_BC.shape[1] // GROUP * GROUP
    if grouped < 2 * k * GROUP:
        return [keys_BC]
    groups_BGg = keys_BC[:, :grouped].unflatten(1, (-1, GROUP))
    best_Bk = groups_BGg.amax(dim=2).topk(k, dim=1, sorted=False).indices
    chosen = groups_BGg.gather(1, best_Bk[:, :, None].expand(-1, -1, GROUP))
    return [chosen.flatten(1), keys_BC[:, grouped:]]


def device_keys(scores_BC: Tensor, id_order_C: Tensor) -> Tensor:
    """Return int64 keys with the order of `ranking_keys`, which has uint64: torch sorts no uint64."""
    bits = (scores_BC + 0.0).view(torch.int32)  # + 0.0 makes -0.0 equal to 0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF  # negative floats grow towards zero
    return torch.add(id_order_C, bits, alpha=2**32)


def keys_from_device(keys: Int64) -> NDArray[np.uint64]:
    """Return the `ranking_keys` of `device_keys`; 0 stands for nothing."""
    return keys.view(np.uint64) ^ np.uint64(1 << 63)
