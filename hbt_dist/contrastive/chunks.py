"""Cut a rank's rows into chunks of similar length, and restore row order and random numbers afterwards.

Only the order inside a rank's slice changes; which rows are in the batch does not. Where rows of a chunk are
padded to its longest, a chunk ends before padding takes more than a tenth of it, and more than one more
chunk would cost.

Every rank gets the same number of chunks. Under ZeRO-3 every forward gathers parameters, and in boundary mode
every backward reduces gradients: with different numbers the ranks would wait for each other forever. A limit
of rows gives equal numbers; with one of tokens or padding the ranks agree on the largest number (one integer
per role and step), and ranks with fewer chunks halve their largest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.common.devices import move
from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.world import World


class Tokens(Protocol):
    """Tokenised texts, one row each (`hbt_dist.batching.tokens.TokenRows`)."""

    @property
    def lengths(self) -> NDArray[np.integer]:
        """Tokens per row: (rows,)."""

    def pad(self, rows: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of some rows, padded to the longest of them: (r, T) each."""


@dataclass(frozen=True)
class Chunk:
    """Rows of one role that are encoded at once."""

    role: str
    rows: NDArray[np.int64]


#: Tokens of padding that cost less than one more chunk. To launch a chunk's kernels takes the host as long as
#: an H200 computes 4,096 tokens of a base model (predicted: benchmarks/gpu/roofline.py).
FREE_PADDING = {"cpu": 64, "cuda": 4096}


#: Default of the rows of a chunk. SDPA's kernels have a limit of their grid.
DEFAULT_ROWS = {"cpu": 64, "cuda": 32_768}


def default_tokens(memory: int) -> int:
    """Return the tokens that end a chunk on a GPU of `memory` bytes, if the run file names none."""
    return max(4096, min(65_536, 4096 * (memory // (5 * 1000**3))))


@dataclass(frozen=True)
class Limits:
    """What ends a chunk.

    Attributes:
        rows: most rows of a chunk.
        tokens: most tokens, padding included; a longer row is a chunk alone. None: no such limit.
        padding: largest share of padding among the tokens of a chunk; None: rows are not padded.
        free_padding: tokens of padding that end no chunk: what one more chunk costs.
    """

    rows: int
    tokens: int | None = None
    padding: float | None = None
    free_padding: int = 0

    @classmethod
    def of(cls, step: StepSettings, device: torch.device, packs: bool) -> Limits:
        """Return the limits of a step on a device, with the defaults of its kind.

        Raises:
            ValueError: `chunk_rows: auto`, which is resolved when a run starts.
        """
        if step.chunk_rows == "auto":
            raise ValueError("chunk_rows: auto is resolved at the start (training.chunk_size)")
        on_gpu = device.type == "cuda"
        tokens = step.chunk_tokens
        if tokens is None and step.chunk_rows is None and on_gpu:
            tokens = default_tokens(torch.cuda.get_device_properties(device).total_memory)
        return cls(
            rows=step.chunk_rows or DEFAULT_ROWS["cuda" if on_gpu else "cpu"],
            tokens=tokens,
            padding=None if packs else 0.1,
            free_padding=FREE_PADDING["cuda" if on_gpu else "cpu"],
        )

    @property
    def depend_on_lengths(self) -> bool:
        """Whether ranks with as many rows may get different numbers of chunks."""
        return self.tokens is not None or self.padding is not None


def chunk_plan(lengths: NDArray[np.integer], limits: Limits) -> list[NDArray[np.int64]]:
    """Return the rows of each chunk, longest rows first, every row in exactly one chunk.

    The first chunk is the widest: if memory does not suffice, the first chunk fails.

    Args:
        lengths: (n,) tokens per row.
        limits: what ends a chunk.
    """
    if limits.rows < 1 or (limits.tokens is not None and limits.tokens < 1):
        raise ValueError(f"expected limits of at least 1, got {limits.rows} rows, {limits.tokens} tokens")
    lengths = np.asarray(lengths, np.int64)
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order]
    chunks: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rows = limits.rows
        if limits.tokens is not None:
            rows = max(1, min(rows, limits.tokens // max(int(descending[start]), 1)))
        if limits.padding is not None:
            part = descending[start : start + rows]
            padded = part[0] * np.arange(1, len(part) + 1)
            padding = padded - np.cumsum(part)
            rows = int(np.sum((padding <= limits.padding * padded) | (padding <= limits.free_padding)))
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def padding_waste(lengths: NDArray[np.integer], chunks: Sequence[NDArray[np.integer]]) -> float:
    """Return the share of padding among all tokens of the chunks, 0 to 1."""
    padded = sum(len(chunk) * int(lengths[chunk].max()) for chunk in chunks if len(chunk))
    return 1.0 - float(np.sum(lengths)) / padded if padded else 0.0


def plan_chunks(roles: Mapping[str, Tokens], limits: Limits, world: World) -> list[Chunk]:
    """Return the chunks of every role, the same number per role on every rank.

    Args:
        roles: the tokens of each role, in the order in which they are encoded.
        limits: what ends a chunk; the same on every rank.
        world: the ranks; collective if the limits depend on lengths.
    """
    plans = _chunk_plans(roles, limits)
    counts = [len(chunks) for chunks in plans.values()]
    if limits.depend_on_lengths and world.size > 1:
        counts = world.all_reduce(move(torch.tensor(counts), world.device), op=dist.ReduceOp.MAX).tolist()
    return _with_counts(plans, counts)


def plan_chunks_of_ranks(ranks: Sequence[Mapping[str, Tokens]], limits: Limits) -> list[list[Chunk]]:
    """Return what `plan_chunks` gives each rank, in one process that holds the tokens of all."""
    plans = [_chunk_plans(roles, limits) for roles in ranks]
    counts = [max(len(plan[role]) for plan in plans) for role in ranks[0]]
    return [_with_counts(plan, counts) for plan in plans]


def _chunk_plans(roles: Mapping[str, Tokens], limits: Limits) -> dict[str, list[NDArray[np.int64]]]:
    return {role: chunk_plan(tokens.lengths, limits) for role, tokens in roles.items()}


def _with_counts(plans: Mapping[str, list[NDArray[np.int64]]], counts: Sequence[int]) -> list[Chunk]:
    """Split the largest chunks of each role until it has its count; ranks hold equally many rows."""
    for chunks, count in zip(plans.values(), counts, strict=True):
        while len(chunks) < count:
            largest = max(range(len(chunks)), key=lambda i: len(chunks[i]))
            rows = chunks[largest]
            chunks[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    return [Chunk(role, rows) for role, chunks in plans.items() for rows in chunks]


class ChunkOrder:
    """Convert between the order of the chunks and that of the rows, with one gather per role.

    Args:
        chunks: of all roles.
        device: of the embeddings.
    """

    def __init__(self, chunks: Sequence[Chunk], device: torch.device) -> None:
        self._roles = [chunk.role for chunk in chunks]
        self._sizes = [len(chunk.rows) for chunk in chunks]
        self._rows: dict[str, Tensor] = {}  # of each role, chunk by chunk
        self._back: dict[str, Tensor] = {}
        for role in dict.fromkeys(self._roles):
            rows = np.concatenate([chunk.rows for chunk in chunks if chunk.role == role])
            self._rows[role] = move(torch.as_tensor(rows), device)
            self._back[role] = move(torch.as_tensor(np.argsort(rows)), device)

    def of_rows(self, parts: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the embeddings of the chunks, (r, D) each, as those of each role's rows, (rows, D)."""
        return {
            role: torch.cat(
                [part for part, part_role in zip(parts, self._roles, strict=True) if part_role == role]
            )[back]
            for role, back in self._back.items()
        }

    def of_chunks(self, whole: Mapping[str, Tensor]) -> list[Tensor]:
        """Return values of each role's rows, (rows, D), as those of the chunks, (r, D) each."""
        pieces = {}
        for role, rows in self._rows.items():
            sizes = [size for size, part in zip(self._sizes, self._roles, strict=True) if part == role]
            pieces[role] = iter(whole[role][rows].split(sizes))
        return [next(pieces[role]) for role in self._roles]


class RandomState:
    """The random state of the CPU and of one accelerator, taken before a chunk and replayed later.

    The second forward of a chunk must draw the same dropout masks as the first: the cached gradient
    belongs to those embeddings.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @contextmanager
    def replay(self) -> Iterator[None]:
        """Run the block from the saved state; afterwards the state is what it was before the block."""
        devices = [] if self._cuda is None else [self._device]
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self._cpu)
            if self._cuda is not None:
                torch.cuda.set_rng_state(self._cuda, self._device)
            yield
