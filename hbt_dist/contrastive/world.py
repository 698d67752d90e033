"""Describe the processes that share a global batch, and run the contrastive step's collectives.

A `World` is passed as an argument; nothing here reads the environment. Each call is counted in
`World.traffic`, so that tests can count the collectives of a step.

Letters: W processes, n rows per process, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# torch 2.13 renamed the two and warns about the old names; older versions only have those.
_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = (
    getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
)


@dataclass(frozen=True)
class World:
    """Rank, size, process group (None: the default group) and device of this process.

    Attributes:
        traffic: collectives issued so far: name -> calls, and bytes of the full (all-rank) tensors.
    """

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = None
    traffic: dict[str, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def alone(cls, device: str | torch.device = "cpu") -> World:
        """Return the world of one process: every collective is the identity, no call is made."""
        return cls(rank=0, size=1, device=torch.device(device))

    @classmethod
    def of_process_group(
        cls, device: str | torch.device = "cpu", group: dist.ProcessGroup | None = None
    ) -> World:
        """Return the world of an initialised torch process group."""
        return cls(dist.get_rank(group), dist.get_world_size(group), torch.device(device), group)

    def all_gather(self, local: Tensor) -> Tensor:
        """Return (n, ...) of every process, detached, rank by rank: (W * n, ...). One process: no copy."""
        local = local.detach()
        if self.size == 1:
            return local
        gathered = local.new_empty(self.size * local.shape[0], *local.shape[1:])
        _all_gather(gathered, local.contiguous(), group=self.group)
        self._count("all_gather", gathered)
        return gathered

    def reduce_scatter(self, every: Tensor) -> Tensor:
        """Sum (W * n, ...) over the processes and return the local n rows. With one process: no copy."""
        if self.size == 1:
            return every
        local = every.new_empty(every.shape[0] // self.size, *every.shape[1:])
        _reduce_scatter(local, every.contiguous(), group=self.group)
        self._count("reduce_scatter", every)
        return local

    def all_reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Reduce in place over the processes and return the tensor."""
        if self.size > 1:
            dist.all_reduce(tensor, op=op, group=self.group)
            self._count("all_reduce", tensor)
        return tensor

    def all_max(self, value: int) -> int:
        """Return the largest of the processes' integers."""
        if self.size == 1:
            return value
        return int(self.all_reduce(torch.tensor([value], device=self.device), op=dist.ReduceOp.MAX).item())

    def all_min(self, value: int) -> int:
        """Return the smallest of the processes' integers."""
        return -self.all_max(-value)

    def _count(self, name: str, full: Tensor) -> None:
        calls, num_bytes = self.traffic.get(name, (0, 0))
        self.traffic[name] = calls + 1, num_bytes + full.numel() * full.element_size()

    def traffic_since(self, before: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
        """Return (calls, bytes) per collective after `before`, a copy of `traffic`."""
        return {
            name: (calls - before.get(name, (0, 0))[0], num_bytes - before.get(name, (0, 0))[1])
            for name, (calls, num_bytes) in self.traffic.items()
        }
