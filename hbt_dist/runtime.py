"""What a training process may ask of whoever started it.

One form for environment variables (torchrun, the `deepspeed` launcher, `accelerate launch`, Slurm, a plain
process) and one for Ray Train. The training loop sees only this; it never asks who started it.
"""

from __future__ import annotations

import os
import signal
import socket
from datetime import timedelta
from typing import Any, Protocol, Self

import torch
import torch.distributed as dist

from hbt_dist.errors import UserError

PROCESS_GROUP_TIMEOUT = timedelta(minutes=10)


class Runtime(Protocol):
    """The place of one process among its peers, and its line to the launcher."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    launcher: str

    def report(self, metrics: dict[str, float]) -> None:
        """Hand figures to the launcher. Collective: every rank calls it at the same steps."""

    def wants_stop(self) -> bool:
        """Whether this process was asked to save and end (SIGTERM, preemption)."""

    def close(self) -> None:
        """Leave the process group."""


def find_device(local_rank: int) -> torch.device:
    """The accelerator of this process if there is one, else the CPU."""
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        return device
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read by DeepSpeed when it is imported
    return torch.device("cpu")


_SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
_PLAIN = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}


class EnvironmentRuntime:
    """A process started by torchrun, `deepspeed`, `accelerate launch`, Slurm, or by hand.

    Raises:
        UserError: the environment names a rank without the rest.
    """

    launcher = "environment"

    def __init__(self) -> None:
        _complete_environment()
        self.rank = int(os.environ["RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", "1")))
        self.device = find_device(self.local_rank)
        self._stop = False
        self._old_handler: Any = signal.signal(signal.SIGTERM, self._on_sigterm)

    def __enter__(self) -> Self:
        backend = "nccl" if self.device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, rank=self.rank, world_size=self.world_size, timeout=PROCESS_GROUP_TIMEOUT
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _on_sigterm(self, *_: object) -> None:
        self._stop = True

    def report(self, metrics: dict[str, float]) -> None:
        """Nobody listens; the run's own metrics file holds everything."""

    def wants_stop(self) -> bool:
        """Whether SIGTERM arrived."""
        return self._stop

    def close(self) -> None:
        """Leave the process group and give the signal handler back."""
        if dist.is_initialized():
            dist.destroy_process_group()
        signal.signal(signal.SIGTERM, self._old_handler)


def _complete_environment() -> None:
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


class RayRuntime:
    """A worker of Ray Train; Ray has made the process group."""

    launcher = "ray"

    def __init__(self) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.local_rank = context.get_local_rank()
        self.local_world_size = context.get_local_world_size()
        device = ray.train.torch.get_device()
        self.device = device if device.type != "cpu" else find_device(self.local_rank)

    def report(self, metrics: dict[str, float]) -> None:
        """Report to Ray. Waits for the controller's next poll: call it at checkpoints, not at steps."""
        import ray.train

        ray.train.report(metrics)

    def wants_stop(self) -> bool:
        """Ray ends workers itself; the next start continues from the last checkpoint."""
        return False

    def close(self) -> None:
        """Ray owns the process group."""
