"""What one rank does for all, and what all must see: nobody is left waiting for a rank that failed."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import LATE_SECONDS, explain_failed_write, wait_for
from hbt_dist.contrastive.world import World

Value = TypeVar("Value")


def attempt(action: Callable[[], Value], folder: Path) -> tuple[Value | None, UserError | None]:
    """What `action` gives, or what a person should hear: its `UserError`, or why nothing could be written.

    Args:
        folder: that it writes to.
    """
    from safetensors import SafetensorError

    try:
        return action(), None
    except UserError as error:
        return None, error
    except (OSError, SafetensorError) as error:
        reason = error if isinstance(error, OSError) else RuntimeError(str(error))
        return None, UserError(
            str(folder),
            f"cannot be written: {explain_failed_write(reason, folder)}",
            "make room or mend the rights, then start the same command again",
        )


def on_rank_0(world: World, folder: Path, action: Callable[[], Value]) -> Value | None:
    """Run `action`, which writes to `folder`, on rank 0; its value there, None elsewhere. Collective.

    Raises:
        UserError: on all ranks the same: rank 0 was refused, or could not write.
    """
    value, problem = attempt(action, folder) if world.rank == 0 else (None, None)
    raise_everywhere(world, problem)
    return value


def raise_everywhere(world: World, problem: UserError | None) -> None:
    """Raise the problem of rank 0, if it has one, on all ranks. Collective."""
    if world.size == 1:
        found = problem
    else:
        box = [problem]
        dist.broadcast_object_list(box, src=0, group=world.group)
        found = box[0]
    if found is not None:
        raise found


def require_shared(folder: Path, world: World, seconds: float = LATE_SECONDS) -> None:
    """Refuse a folder that is not one and the same for all ranks. Collective.

    On disks of their own every rank would keep its part of a checkpoint to itself, and no start could use it.

    Args:
        folder: exists on rank 0.
        world: the ranks.
        seconds: how long a network file system may take to show a new file.

    Raises:
        UserError: on all ranks; it names one that sees another folder.
    """
    if world.size == 1:
        return
    token = [f".seen-{secrets.token_hex(6)}"]
    on_rank_0(world, folder, (folder / token[0]).touch)
    dist.broadcast_object_list(token, src=0, group=world.group)
    mine: Any = (
        None if wait_for(folder / token[0], seconds) else f"rank {world.rank} on {socket.gethostname()}"
    )
    every: list[Any] = [None] * world.size
    dist.all_gather_object(every, mine, group=world.group)
    if world.rank == 0:
        (folder / token[0]).unlink(missing_ok=True)
    blind = [place for place in every if place is not None]
    if blind:
        raise UserError(
            f"output_dir {folder}",
            f"is not the same folder for all workers: what rank 0 writes there is not seen by {blind[0]}",
            "all workers write their part of each checkpoint there: name a folder on shared storage\n"
            "(NFS, Lustre, FSx, Filestore, a read-write-many volume), or run on one node",
        )
