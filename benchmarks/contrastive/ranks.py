"""Start a benchmark's function on several CPU processes that form a process group."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import multiprocessing

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.contrastive.world import World


def run(world_size: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`body(world, *arguments)` on every rank, one thread each; the results rank by rank."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_rank, (folder, world_size, body, arguments), nprocs=world_size)
        return [pickle.loads(Path(folder, str(rank)).read_bytes()) for rank in range(world_size)]


def _rank(rank: int, folder: str, world_size: int, body: Callable[..., Any], arguments: Any) -> None:
    os.environ.update({"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size)
    Path(folder, str(rank)).write_bytes(pickle.dumps(body(World.of_process_group(), *arguments)))
    dist.barrier()
    dist.destroy_process_group()
