"""Cut a rank's rows into chunks that every rank has equally many of, and replay their random numbers.

Under ZeRO-3 every forward gathers parameters, and in boundary mode every backward reduces gradients: ranks
with different numbers of chunks would wait for each other for ever. Cutting by rows gives equal numbers by
itself; cutting by tokens does not, so the ranks agree on the largest number (one integer per role and step)
and those with fewer halve their largest chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hbt_dist.contrastive.chunk_plan import chunk_plan
from hbt_dist.contrastive.world import World


class Tokens(Protocol):
    """Tokenised texts, one row each (`hbt_dist.batching.tokens.TokenRows`)."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row: (rows,)."""

    def pad(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of some rows, padded to the longest of them: (r, T) each."""


@dataclass(frozen=True)
class Chunk:
    """Rows of one role that are encoded at once."""

    role: str
    rows: np.ndarray


def plan_chunks(
    roles: Mapping[str, Tokens], max_rows: int | None, max_tokens: int | None, world: World
) -> list[Chunk]:
    """Chunks of every role, the same number per role on every rank.

    Args:
        roles: the tokens of each role, in the order in which they are encoded.
        max_rows: most rows of a chunk; None: one chunk per role, `max_tokens` is not read.
        max_tokens: most tokens of a chunk, padding included; None: no such limit.
    """
    planned = {}
    for role, tokens in roles.items():
        if max_rows is None:
            planned[role] = [np.arange(len(tokens.lengths))]
        else:
            planned[role] = list(chunk_plan(tokens.lengths, max_rows, max_tokens))
    if max_rows is not None and max_tokens is not None and world.size > 1:
        counts = torch.tensor([len(chunks) for chunks in planned.values()], device=world.device)
        most = world.all_reduce(counts, op=dist.ReduceOp.MAX).tolist()
        for chunks, count in zip(planned.values(), most, strict=True):
            _halve_largest(chunks, count)
    return [Chunk(role, rows) for role, chunks in planned.items() for rows in chunks]


def _halve_largest(chunks: list[np.ndarray], count: int) -> None:
    """Split chunks until there are `count`; there are at least so many rows, as ranks hold equal slices."""
    while len(chunks) < count:
        largest = max(range(len(chunks)), key=lambda i: len(chunks[i]))
        rows = chunks[largest]
        chunks[largest : largest + 1] = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """To a device without waiting for it; a copy from pageable memory would wait for all that came before."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class ChunkOrder:
    """From the order of the chunks to that of the rows and back, once per role, however many there are.

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
        """Embeddings of the chunks, (r, D) each, as those of each role's rows, (rows, D)."""
        found = {}
        for role, back in self._back.items():
            own = [part for part, other in zip(parts, self._roles, strict=True) if other == role]
            found[role] = torch.cat(own)[back]
        return found

    def of_chunks(self, whole: Mapping[str, Tensor]) -> list[Tensor]:
        """Values of each role's rows, (rows, D), as those of the chunks, (r, D) each."""
        pieces = {}
        for role, rows in self._rows.items():
            sizes = [size for size, other in zip(self._sizes, self._roles, strict=True) if other == role]
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
