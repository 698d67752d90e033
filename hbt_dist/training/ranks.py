"""Run work on one rank or on all ranks and raise its error on every rank, so that no rank hangs."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.common.errors import OneRankError, UserError, last_line
from hbt_dist.common.files import LATE_SECONDS, explain_failed_write, wait_for
from hbt_dist.contrastive.world import World

Value = TypeVar("Value")

#: Seconds between two signs of life; far below any limit of a collective.
SIGN_OF_LIFE = 2.0


def attempt(action: Callable[[], Value], folder: Path) -> tuple[Value | None, UserError | None]:
    """Return what `action` returns, and its `UserError` or a `UserError` about a failed write.

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
            "free space or correct the permissions, then start the same command again",
        )


def on_rank_0(world: World, folder: Path, action: Callable[[], Value]) -> Value | None:
    """Run `action`, which writes to `folder`, on rank 0; return its value there, None elsewhere. Collective.

    Raises:
        UserError: the same on all ranks: rank 0 was refused, or could not write.
    """
    value, problem = attempt(action, folder) if world.rank == 0 else (None, None)
    raise_everywhere(world, problem)
    return value


def raise_everywhere(world: World, problem: UserError | None) -> None:
    """Raise the problem of rank 0, if it has one, on all ranks. Collective."""
    problems = [problem]
    if world.size > 1:
        dist.broadcast_object_list(problems, src=0, group=world.group)
    raise_problem(problems[0])


def raise_problem(problem: UserError | None) -> None:
    """Raise a problem, if there is one."""
    if problem is not None:
        raise problem


def gather_objects(world: World, value: Value) -> list[Value]:
    """Return the values of all ranks, in the order of the ranks. Collective."""
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value, group=world.group)
    return values


def require_shared(
    folder: Path,
    world: World,
    seconds: float = LATE_SECONDS,
    *,
    name: str = "output_dir",
    purpose: str = "all workers write their part of each checkpoint there",
) -> None:
    """Refuse a folder that is not the same folder for all ranks. Collective.

    On separate disks every rank would keep its part of a checkpoint to itself, and no start could use it.

    Args:
        folder: exists on rank 0.
        world: the ranks.
        seconds: how long a network file system may take to show a new file.
        name: key of the run file.
        purpose: why the folder must be shared.

    Raises:
        UserError: on all ranks; it names a rank that sees a different folder.
    """
    if world.size == 1:
        return
    token = [f".seen-{secrets.token_hex(6)}"]
    on_rank_0(world, folder, (folder / token[0]).touch)
    dist.broadcast_object_list(token, src=0, group=world.group)
    seen = wait_for(folder / token[0], seconds)
    blind = gather_objects(world, None if seen else f"rank {world.rank} on {socket.gethostname()}")
    if world.rank == 0:
        (folder / token[0]).unlink(missing_ok=True)
    worker = next((rank for rank in blind if rank is not None), None)
    if worker is not None:
        raise UserError(
            f"{name} {folder}",
            f"is not the same folder for all workers: {worker} does not see what rank 0 writes there",
            f"{purpose}: name a folder on shared storage\n"
            "(NFS, Lustre, FSx, Filestore, a read-write-many volume), or run on one node",
        )


def on_every_rank(work: Callable[[], Value], world: World) -> Value:
    """Run long `work` on every rank; return this rank's result once all ranks have ended. Collective.

    A collective waits for the slowest rank for `training.hang_timeout_seconds`. Converting and tokenising a
    large corpus takes longer, and nodes with separate caches do not end at the same time. So the work runs in
    a thread while the ranks exchange signs of life, until all have ended or one has failed. A rank whose
    process dies is noticed as in any collective.

    Args:
        work: may take hours; it must not use collectives.
        world: the ranks.

    Raises:
        UserError: on all ranks, if `work` refused on one.
        Exception: what `work` raised on this rank, or a message that it failed on another rank.
    """
    if world.size == 1:
        return work()
    future = run_in_thread(work, "preparation")
    pause = 0.05
    while True:
        states = gather_objects(world, _state(future))
        failed = [rank for rank, state in enumerate(states) if state not in ("working", "done")]
        if failed:
            if future.done():
                future.result()  # raises this rank's error, if it has one
            message = f"rank {failed[0]}: {states[failed[0]]}"
            raise next((state for state in states if isinstance(state, UserError)), RuntimeError(message))
        if "working" not in states:
            return future.result()
        wait([future], pause)
        pause = min(2 * pause, SIGN_OF_LIFE)


def wait_for_rank_0(work: Callable[[], None], world: World) -> None:
    """Run `work` on rank 0 while the other ranks wait; its `UserError` is raised on all. Collective."""
    on_every_rank(work if world.rank == 0 else lambda: None, world)


def run_in_thread(work: Callable[[], Value], name: str) -> Future[Value]:
    """Run `work` in a daemon thread, which does not keep a process that has given up."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised by the thread that reads the result
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _state(future: Future[Any]) -> str | UserError:
    """Return "working", "done", or why the work failed, for the other ranks."""
    if not future.done():
        return "working"
    problem = future.exception()
    if problem is None or isinstance(problem, UserError):
        return problem or "done"
    return f"{type(problem).__name__}: {problem}"


@contextmanager
def full_memory_explained(
    world: World, chunk_rows: int | str | None, remedy: str | None = None
) -> Iterator[None]:
    """Turn an error of full memory into an error that names the settings to change.

    Ray does not restart a run after it: the next start would meet the same wall.

    Args:
        world: this rank and its device.
        chunk_rows: `step.chunk_rows` of the run file.
        remedy: default: the settings of a step.

    Raises:
        OneRankError: this rank's GPU is full. The other ranks may have free memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # NCCL quotes the driver in its last line.
        text = " ".join((last_line(error) if isinstance(error, dist.DistError) else str(error)).split())
        reason = ". ".join(text.split(". ")[:2]).rstrip(".") or type(error).__name__
        raise OneRankError(
            f"rank {world.rank} on {socket.gethostname()}",
            f"the memory of {world.device} is full{_peak(world.device)}: {reason}",
            remedy
            or f"lower step.chunk_rows ({chunk_rows or 'by device'} now; auto: the largest that fits) or "
            "step.chunk_tokens;\nstep.mode: cached, "
            "deepspeed.gradient_checkpointing: true, a higher ZeRO stage, shorter texts (model.text),\n"
            "and more workers need less, too. The same command continues from the last checkpoint",
        ) from error


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    peak = torch.cuda.max_memory_allocated(device) / 2**30
    total = torch.cuda.get_device_properties(device).total_memory / 2**30
    return f" (tensors took up to {peak:.1f} of {total:.1f} GiB)"
