"""What a training process may ask of whoever started it.

One form for environment variables (torchrun, the `deepspeed` launcher, `accelerate launch`, Slurm, a plain
process) and one for Ray Train. The training loop sees only this; it never asks who started it.
"""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist

from hbt_dist.common.errors import OneRankError, UserError
from hbt_dist.common.signals import FirstInterrupt

PROCESS_GROUP_TIMEOUT = timedelta(minutes=10)


class Request(IntEnum):
    """What the launcher asks of a training process, the stronger the larger."""

    NONE = 0
    SAVE = 1  # write a checkpoint and go on: a machine will be lost
    STOP = 2  # write a checkpoint and end


class Runtime(Protocol):
    """The place of one process among its peers, and its line to the launcher."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    launcher: str
    folder_wait_seconds: float  # how long another process may still hold the run's folder

    def report(self, metrics: dict[str, float]) -> None:
        """Hand figures to the launcher. Collective: every rank calls it at the same steps."""

    def request(self) -> Request:
        """What this process was asked to do. Ranks may be asked at different steps: the largest counts."""

    def close(self) -> None:
        """Leave the process group."""


def find_device(local_rank: int, *, use_gpu: bool = True) -> torch.device:
    """The accelerator of this process if there is one and it is wanted, else the CPU."""
    device = torch.device("cpu")
    if use_gpu and torch.cuda.is_available():
        # Slurm can show each task one GPU of its own: the same number for all of them.
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return name_accelerator(device)


def name_accelerator(device: torch.device) -> torch.device:
    """Tell DeepSpeed, which reads it when it is imported, what this process computes on; returns `device`.

    Whatever was set before may be meant for another machine: a driver without a GPU, say.
    """
    os.environ["DS_ACCELERATOR"] = device.type
    return device


def refuse_shared_gpus(mine: tuple[str, str], world_size: int) -> None:
    """Refuse two ranks on one GPU, which NCCL would end without a name. Collective.

    Args:
        mine: this rank's host and the GPU's own identity.
        world_size: number of ranks.

    Raises:
        UserError: on all ranks.
    """
    group = dist.new_group(backend="gloo")
    every: list[Any] = [None] * world_size
    dist.all_gather_object(every, mine, group=group)
    dist.destroy_process_group(group)
    for rank, place in enumerate(every):
        if (first := every.index(place)) < rank:
            host, gpu = place
            there = [other for name, other in every if name == host]
            raise UserError(
                "processes",
                f"ranks {first} and {rank} were given the same GPU {gpu} of {host}",
                f"start as many processes on a host as it has GPUs ({len(set(there))} seen, "
                f"{len(there)} processes), or set workers.use_gpu: false",
            )


def _explain_meeting(error: Exception, timeout: timedelta) -> UserError:
    """Why the processes did not find each other."""
    place = f"MASTER_ADDR {os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}"
    text = " ".join(str(error).split())
    if "EADDRINUSE" in text:
        remedy = "choose another port, the same for all processes (deepspeed and accelerate: --master_port,\n"
        return UserError(
            place, "the port is taken", remedy + "--main_process_port; torchrun: --rdzv-endpoint)"
        )
    minutes = timeout.total_seconds() / 60
    return UserError(
        place,
        f"the processes did not meet: {text[:200]}",
        f"all WORLD_SIZE processes must start within {minutes:.0f} minutes, and every host must reach that\n"
        "address: check the hostfile, the firewall, and that the name does not resolve to 127.0.1.1",
    )


_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
_PLAIN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


class EnvironmentRuntime:
    """A process started by torchrun, `deepspeed`, `accelerate launch`, Slurm, or by hand.

    Args:
        timeout: how long to wait for the others, at the start and in every collective; 10 minutes by default.
        use_gpu: compute on a GPU if there is one.

    Raises:
        UserError: the environment names a rank without the rest; two ranks share a GPU.
    """

    launcher = "environment"
    folder_wait_seconds = 20.0

    def __init__(self, timeout: timedelta | None = None, *, use_gpu: bool = True) -> None:
        self._own_variables = _complete_environment()
        self._timeout = timeout or PROCESS_GROUP_TIMEOUT
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
        self.device = find_device(self.local_rank, use_gpu=use_gpu)
        self._stop = self._has_begun = False
        self._interrupts = FirstInterrupt(self._on_interrupt, announce=self.rank == 0)
        self._old_handler: Any = signal.signal(signal.SIGTERM, self._on_sigterm)

    def __enter__(self) -> Self:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend, rank=self.rank, world_size=self.world_size, timeout=self._timeout
            )
        except dist.DistError as error:
            raise _explain_meeting(error, self._timeout) from error
        if self.device.type == "cuda" and self.world_size > 1:
            gpu = torch.cuda.get_device_properties(self.device)
            refuse_shared_gpus((socket.gethostname(), f"{gpu.name} {gpu.uuid}"), self.world_size)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # NCCL waits for the peers before it lets a group go, and they wait for this rank in a collective: the
        # process must end, so that its error is read and its launcher ends the others.
        alone = error is not None and (not isinstance(error, UserError) or isinstance(error, OneRankError))
        self._give_back(leave=not alone or self.world_size == 1)

    def _on_sigterm(self, *_: object) -> None:
        self._stop = True

    def _on_interrupt(self) -> bool:
        self._stop = self._has_begun
        return self._has_begun

    def report(self, metrics: dict[str, float]) -> None:
        """Nobody listens; the run's own metrics file holds everything."""

    def request(self) -> Request:
        """STOP once SIGTERM has arrived, or Ctrl-C after the first step: before, there is nothing to save."""
        self._has_begun = True
        return Request.STOP if self._stop else Request.NONE

    def close(self) -> None:
        """Leave the process group; give back signal handlers, and variables that nobody had set."""
        self._give_back(leave=True)

    def _give_back(self, *, leave: bool) -> None:
        if leave and dist.is_initialized():
            dist.destroy_process_group()
        for name in self._own_variables:
            os.environ.pop(name, None)  # a process started later must not take the rank and port of this one
        signal.signal(signal.SIGTERM, self._old_handler)
        self._interrupts.close()


def _complete_environment() -> tuple[str, ...]:
    """Add what is missing; returns the variables of a process that is alone."""
    if (
        "RANK" not in os.environ
        and "SLURM_PROCID" in os.environ
        and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    ):
        for ours, theirs in _SLURM.items():
            os.environ[ours] = os.environ[theirs]
        tasks = os.environ.get("SLURM_NTASKS_PER_NODE", os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        os.environ["LOCAL_WORLD_SIZE"] = tasks.split("(")[0]
    elif "RANK" not in os.environ:
        os.environ.update(_PLAIN)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
        return (*_PLAIN, "MASTER_PORT")
    missing = [
        name for name in ("WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise UserError(
            "environment",
            f"RANK is set but {', '.join(missing)} not",
            "start with torchrun, deepspeed or srun, "
            "or export MASTER_ADDR (host of rank 0) and MASTER_PORT (a free port there)",
        )
    return ()
