"""What a rank of a fake process group runs, called by `tests.helpers.ranks`."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from benchmarks.scale.many_ranks import count_as_rank_0
from hbt_dist.contrastive.world import World


def counted(world: World, num_ranks: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave the real group of one process and count as a rank of a large fake one."""
    assert world.size == 1
    dist.destroy_process_group()
    return count_as_rank_0(num_ranks, cases)
