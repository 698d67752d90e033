"""Cut a rank's rows into chunks of similar length, and restore row order and random numbers afterwards.

Only the order inside a rank's slice changes; which rows are in the batch does not. On SQuAD in Finnish
and back-translated English, 256 rows in chunks of 32, sorting by length reduces the padding of passages from
32 % of the tokens to 6 %, with 1,024 rows to 2 % (benchmarks/results/batching_padding.md).

Every rank gets the same number of chunks. Under ZeRO-3 every forward gathers parameters, and in boundary mode
every backward reduces gradients: with different numbers the ranks would wait for each other forever. A limit
of rows gives equal numbers; with a limit of tokens the ranks agree on the largest number (one integer per
role and step), and ranks with fewer chunks halve their largest.
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


def chunk_plan(
    lengths: NDArray[np.integer], max_rows: int, max_tokens: int | None = None
) -> list[NDArray[np.int64]]:
    """Return the rows of each chunk, longest rows first, every row in exactly one chunk.

    A chunk is padded to its longest row; it holds at most `max_rows` rows and, if given, at most
    `max_tokens` padded tokens (a longer row is a chunk alone). The first chunk is the widest: if memory does
    not suffice, the first chunk fails.

    Args:
        lengths: (n,) tokens per row.
    """
    if max_rows < 1 or (max_tokens is not None and max_tokens < 1):
        raise ValueError(f"expected limits of at least 1, got max_rows {max_rows}, max_tokens {max_tokens}")
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    chunks: list[NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        rows = max_rows
        if max_tokens is not None:
            rows = max(1, min(max_rows, max_tokens // max(int(lengths[order[start]]), 1)))
        chunks.append(order[start : start + rows])
        start += rows
    return chunks


def padding_waste(lengths: NDArray[np.integer], chunks: Sequence[NDArray[np.integer]]) -> float:
    """Return the share of padding among all tokens of the chunks, 0 to 1."""
    padded = sum(len(chunk) * int(lengths[chunk].max()) for chunk in chunks if len(chunk))
    return 1.0 - float(np.sum(lengths)) / padded if padded else 0.0


def plan_chunks(
    roles: Mapping[str, Tokens], max_rows: int | None, max_tokens: int | None, world: World
) -> list[Chunk]:
    """Return the chunks of every role, the same number per role on every rank.

    Args:
        roles: the tokens of each role, in the order in which they are encoded.
        max_rows: most rows of a chunk; None: one chunk per role, `max_tokens` is not read.
        max_tokens: most tokens of a chunk, padding included; None: no such limit.
    """
    if max_rows is None:
        return [Chunk(role, np.arange(len(tokens.lengths))) for role, tokens in roles.items()]
    planned = {role: chunk_plan(tokens.lengths, max_rows, max_tokens) for role, tokens in roles.items()}
    if max_tokens is not None and world.size > 1:
        counts = torch.tensor([len(chunks) for chunks in planned.values()], device=world.device)
        most = world.all_reduce(counts, op=dist.ReduceOp.MAX).tolist()
        for chunks, count in zip(planned.values(), most, strict=True):
            _halve_largest(chunks, count)
    return [Chunk(role, rows) for role, chunks in planned.items() for rows in chunks]


def _halve_largest(chunks: list[NDArray[np.int64]], count: int) -> None:
    """Split chunks until there are `count`; there are at least as many rows, as ranks hold equal slices."""
    while len(chunks) < count:
        largest = max(range(len(chunks)), key=lambda i: len(chunks[i]))
        rows = chunks[largest]
        chunks[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting; a copy from pageable memory would wait for all earlier work."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


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
