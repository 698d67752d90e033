"""Connect a training process to its launcher: rank, device, requests to save or stop.

`EnvironmentRuntime` reads environment variables (torchrun, the `deepspeed` launcher, `accelerate launch`,
Slurm, a plain process); `hbt_dist.orchestration.ray_runtime` is for Ray Train. The training loop knows only
the protocol.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous

from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.common.devices import prepare_device
from hbt_dist.common.environment import environment_number
from hbt_dist.common.errors import OneRankError, UserError, last_line
from hbt_dist.common.signals import FirstInterrupt

PROCESS_GROUP_TIMEOUT = timedelta(minutes=10)


class Request(IntEnum):
    """What the launcher requests of a training process; a larger value is stronger."""

    NONE = 0
    SAVE = 1  # write a checkpoint and continue: a machine will be lost
    STOP = 2  # write a checkpoint and end


class Runtime(Protocol):
    """Rank and device of a process, and its connection to the launcher."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    launcher: str
    folder_wait_seconds: float  # how long another process may still hold the run's folder

    def report(self, metrics: dict[str, float]) -> None:
        """Report figures to the launcher. Collective: every rank calls it at the same steps."""

    def request(self) -> Request:
        """Return the launcher's request to this process. Ranks may differ: the largest is used."""


def find_device(local_rank: int, *, use_gpu: bool = True) -> torch.device:
    """Return the accelerator of this process if it has one and `use_gpu` is true, else the CPU."""
    if not use_gpu or not torch.cuda.is_available():
        return name_accelerator(torch.device("cpu"))
    # Slurm can show each task a single GPU, with the same number for all tasks.
    device = name_accelerator(torch.device("cuda", local_rank % torch.cuda.device_count()))
    os.environ.update(allocator_defaults())  # torch reads it when the device is first set
    torch.cuda.set_device(device)
    return device


def name_accelerator(device: torch.device) -> torch.device:
    """Set ``DS_ACCELERATOR``, which DeepSpeed reads when it is imported, prepare and return `device`.

    An earlier value may be meant for another machine, such as a driver without a GPU.
    """
    prepare_device(device)
    os.environ["DS_ACCELERATOR"] = device.type
    return device


def allocator_defaults() -> dict[str, str]:
    """Return the variables that configure torch's GPU memory for training, none if the user has set one.

    Chunks differ in shape: segments that grow leave fewer gaps between them than segments of fixed size.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch below 2.9 reads the second
    user_decides = any(name in os.environ for name in names)
    return {} if user_decides else dict.fromkeys(names, "expandable_segments:True")


def refuse_shared_gpus(local: tuple[str, str], rank: int, world_size: int, store: c10d.Store) -> None:
    """Refuse two ranks on one GPU; NCCL would end without naming them. Every rank calls it.

    Args:
        local: this rank's host and the name and UUID of its GPU.
        rank: of this process.
        world_size: number of ranks.
        store: through which the ranks meet; no process group exists yet, NCCL would fail to make one.

    Raises:
        UserError: on all ranks.
    """
    store.set(f"gpu-{rank}", json.dumps(local))
    used = [json.loads(gpu) for gpu in store.multi_get([f"gpu-{rank}" for rank in range(world_size)])]
    shared = [(used.index(gpu), last) for last, gpu in enumerate(used) if used.index(gpu) < last]
    if not shared:
        return
    store.set(f"refused-{rank}", "")
    if rank == 0:  # the store ends with this process
        store.wait([f"refused-{rank}" for rank in range(world_size)])
    first, last = shared[0]
    host, gpu = used[first]
    gpus = [name for its_host, name in used if its_host == host]
    raise UserError(
        "processes",
        f"ranks {first} and {last} were given the same GPU {gpu} of {host}",
        f"start as many processes on a host as it has GPUs ({len(set(gpus))} seen, "
        f"{len(gpus)} processes), or set workers.use_gpu: false",
    )


def _explain_meeting(error: Exception, timeout: timedelta) -> UserError:
    """Return why the processes did not find each other."""
    text = " ".join(str(error).split())
    minutes = timeout.total_seconds() / 60
    problem = f"the processes did not meet: {text[:200]}"
    remedy = (
        f"all WORLD_SIZE processes must start within {minutes:.0f} minutes, and every host must reach that\n"
        "address: check the hostfile, the firewall, and that the name does not resolve to 127.0.1.1"
    )
    if "EADDRINUSE" in text:
        problem = "the port is taken"
        remedy = (
            "choose another port, the same for all processes (deepspeed and accelerate: --master_port,\n"
            "--main_process_port; torchrun: --rdzv-endpoint)"
        )
    elif is_out_of_memory(error):
        problem = f"no memory of the GPU is left for NCCL: {last_line(error)}"
        remedy = "end the other processes on the GPU (nvidia-smi lists them)"
    location = f"MASTER_ADDR {os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}"
    return UserError(location, problem, remedy)


_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
_PLAIN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


class EnvironmentRuntime:
    """A process started by torchrun, `deepspeed`, `accelerate launch`, Slurm, or by hand.

    Args:
        timeout: how long to wait at the start and in every collective; 10 minutes by default.
        use_gpu: compute on a GPU if there is one.

    Raises:
        UserError: the environment has a rank but no world size or address; it is of a Slurm job whose tasks
            srun has not started; two ranks share a GPU.
    """

    launcher = "environment"
    folder_wait_seconds = 20.0

    def __init__(self, timeout: timedelta | None = None, *, use_gpu: bool = True) -> None:
        self._added_variables = _complete_environment()
        self._timeout = timeout or PROCESS_GROUP_TIMEOUT
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.device = find_device(self.local_rank, use_gpu=use_gpu)
        self._stop = self._has_begun = False
        self._interrupts = FirstInterrupt(self._on_interrupt, announce=self.rank == 0)
        self._old_handler: Any = signal.signal(signal.SIGTERM, self._on_sigterm)

    def __enter__(self) -> Self:
        on_gpu = self.device.type == "cuda"
        try:
            meeting = rendezvous("env://", self.rank, self.world_size, timeout=self._timeout)
            store, _, _ = next(meeting)
            store.set_timeout(self._timeout)
            if on_gpu and self.world_size > 1:
                gpu = torch.cuda.get_device_properties(self.device)
                local = (socket.gethostname(), f"{gpu.name} {gpu.uuid}")
                refuse_shared_gpus(local, self.rank, self.world_size, store)
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=c10d.PrefixStore("ranks", store),
                rank=self.rank,
                world_size=self.world_size,
                timeout=self._timeout,
                device_id=self.device if on_gpu else None,
            )
        except dist.DistError as error:
            raise _explain_meeting(error, self._timeout) from error
        _forget_groups()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        # NCCL waits for the peers before it lets a group go, and they wait for this rank in a collective: the
        # process must end, so that its error is read and its launcher ends the others.
        alone = error is not None and (not isinstance(error, UserError) or isinstance(error, OneRankError))
        self.close(leave=not alone or self.world_size == 1)

    def _on_sigterm(self, *_: object) -> None:
        self._stop = True

    def _on_interrupt(self) -> bool:
        self._stop = self._has_begun
        return self._has_begun

    def report(self, metrics: dict[str, float]) -> None:
        """Do nothing; the run's metrics file holds all figures."""

    def request(self) -> Request:
        """Return STOP after SIGTERM, or after Ctrl-C once a step is made; before, nothing is to save."""
        self._has_begun = True
        return Request.STOP if self._stop else Request.NONE

    def close(self, *, leave: bool = True) -> None:
        """Leave the process group; restore signal handlers, remove variables that were added."""
        if leave and dist.is_initialized():
            dist.destroy_process_group()
        for name in self._added_variables:
            os.environ.pop(name, None)  # a process started later must not take the rank and port of this one
        signal.signal(signal.SIGTERM, self._old_handler)
        self._interrupts.close()


def _forget_groups() -> None:
    """Make DeepSpeed clone the present process group: it keeps the clone of a former training's group."""
    groups: Any = sys.modules.get("deepspeed.utils.groups")
    if groups is not None:
        for name in ("_WORLD_GROUP", "_ZERO_PARAM_INTRA_PARALLEL_GROUP"):
            setattr(groups, name, None)


def _complete_environment() -> tuple[str, ...]:
    """Complete the environment; return the variables that were added for a single process."""
    if (
        "RANK" not in os.environ
        and "SLURM_PROCID" in os.environ
        and environment_number("SLURM_NTASKS", 1) > 1
    ):
        _check_slurm(os.environ)
        os.environ.update({ours: os.environ[theirs] for ours, theirs in _SLURM.items()})
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
    _check_numbers()
    return ()


def _check_numbers() -> None:
    """Refuse ranks, sizes and ports that no launcher gives."""
    size = environment_number("WORLD_SIZE", 1)
    for name, least, most in (
        ("WORLD_SIZE", 1, 2**31),
        ("RANK", 0, size - 1),
        ("LOCAL_RANK", 0, size - 1),
        ("MASTER_PORT", 1, 2**16 - 1),
    ):
        if not least <= (value := environment_number(name, 0)) <= most:
            raise UserError(
                f"environment, {name}",
                f"expected {least} to {most:,}, got {value}",
                "start with torchrun, deepspeed or srun, or correct the variables",
            )


def _check_slurm(environment: Mapping[str, str]) -> None:
    """Refuse the variables of a Slurm job whose tasks cannot meet, such as in a batch script without srun."""
    tasks = environment["SLURM_NTASKS"]
    names = (*_SLURM.values(), "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in names if name not in environment]:
        raise UserError(
            f"SLURM_NTASKS={tasks}",
            f"expected {tasks} processes that srun has started, got no {', '.join(missing)}",
            "start all of them: 'srun hbt-dist train ...' after export MASTER_ADDR=HOST MASTER_PORT=PORT\n"
            "(launchers/slurm.sbatch does it), or train in this process alone: unset SLURM_NTASKS",
        )
