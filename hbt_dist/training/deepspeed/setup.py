"""Prepare DeepSpeed for an engine: device, process groups, its check of a configuration, bf16 of the GPU."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed


def prepare_deepspeed(world: World) -> None:
    """Make DeepSpeed adopt the process group, without compiling anything.

    Sets ``DS_ACCELERATOR=cpu`` for a CPU world if nothing is set; creates a process group for a process
    without one. On Linux CPUs DeepSpeed would compile a shared-memory operator for about 1.5 minutes that
    training never calls.
    """
    if world.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    name_device(world.device)
    load_deepspeed()
    import deepspeed

    if world.device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():
        if world.size != 1:
            raise RuntimeError("initialise the torch process group before building a DeepSpeed engine")
        backend = "nccl" if world.device.type == "cuda" else "gloo"
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(
            dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False, dist_init_required=False
        )


@functools.cache
def load_deepspeed() -> None:
    """Import DeepSpeed in half the time: without MLflow's client, and without a compiler for its Muon.

    Its autotuner imports MLflow where it is installed. Its optimizer Muon hands functions to `torch.compile`
    on import, which loads the whole compiler; here they are compiled at their first call.
    """
    without_mlflow = "mlflow" not in sys.modules
    compile_now = torch.compile
    if without_mlflow:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    torch.compile = _compile_at_first_call  # type: ignore[assignment]
    try:
        with contextlib.suppress(ImportError):  # a version that keeps it elsewhere loads as it does
            import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        torch.compile = compile_now
        if without_mlflow:
            sys.modules.pop("mlflow", None)


def _compile_at_first_call(function: Callable[..., Any] | None = None, **options: Any) -> Callable[..., Any]:
    if function is None:
        return functools.partial(_compile_at_first_call, **options)
    compiled = functools.cache(lambda: torch.compile(function, **options))

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return compiled()(*args, **kwargs)

    return call


def name_device(device: torch.device) -> None:
    """Set ``LOCAL_RANK``, which DeepSpeed reads, to the device of this process.

    Where each task sees one GPU only, the fourth task of a node computes on ``cuda:0``; with its own number
    DeepSpeed would ask for ``cuda:3``.
    """
    if device.type == "cuda":
        os.environ["LOCAL_RANK"] = str(device.index or 0)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")


def check_with_deepspeed(deepspeed: ResolvedDeepSpeed) -> None:
    """Let DeepSpeed check its keys and their types; plain PyTorch passes.

    Raises:
        UserError: a misspelt key, or a value of the wrong type.
    """
    if deepspeed.config is None:
        return
    load_deepspeed()
    from deepspeed.runtime.config import DeepSpeedConfig, DeepSpeedConfigError

    try:
        DeepSpeedConfig(copy.deepcopy(deepspeed.config))
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError, DeepSpeedConfigError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "deepspeed.config",
            f"DeepSpeed refuses it: {': '.join(lines[1:3]) if len(lines) > 2 else ' '.join(lines)}",
            "compare with deepspeed_configs/ and with DeepSpeed's documentation",
        ) from error


@contextlib.contextmanager
def groups_time_out_like_the_first(device: torch.device) -> Iterator[None]:
    """Give the process groups that DeepSpeed creates the timeout of the default group.

    DeepSpeed sets no timeout, and torch then takes 30 minutes from two constants: the other workers would
    wait that long for a worker that died or hangs between two collectives of DeepSpeed.
    """
    first = dist.group.WORLD
    with contextlib.ExitStack() as stack:
        for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
            if first is not None and hasattr(c10d, name):
                stack.callback(setattr, c10d, name, getattr(c10d, name))
                setattr(c10d, name, first._get_backend(device).options._timeout)
        yield


def emulated_bf16(deepspeed: ResolvedDeepSpeed, device: torch.device) -> tuple[str, str] | None:
    """Return problem and remedy where the GPU would emulate bf16, else None.

    torch's autocast silently accepts such a GPU (below compute capability 8): by default
    `is_bf16_supported` counts emulation.

    Args:
        deepspeed: how the run trains.
        device: of this process, the current device if it is a GPU.
    """
    if device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        return None
    if not deepspeed.computes_in_bf16:
        return None
    remedy = "set deepspeed.config: zero1_fp16, or cpu for float32"
    if deepspeed.config is None:
        remedy = "set deepspeed.precision: fp32"
    return f"{torch.cuda.get_device_name(device)} has no bf16 and emulates it, slowly", remedy
