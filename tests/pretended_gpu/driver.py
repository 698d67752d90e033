"""Answer what torch.cuda and the process groups would ask a driver, and switch the pretended GPU on."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import torch
import torch.cuda.nvtx
import torch.distributed as dist

from tests.pretended_gpu.tensors import (
    GPU,
    RANDOMNESS,
    RECORDER,
    Groups,
    PretendedCuda,
    PretendedGenerator,
    read_data,
    write_data,
)

GIGABYTE = 1024**3
PROPERTIES = SimpleNamespace(
    name="pretended GPU", total_memory=141 * GIGABYTE, major=9, minor=0, multi_processor_count=132, uuid="0"
)


class Stream:
    """The only stream; work is done when it is issued."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device, self.cuda_stream, self.stream_id = GPU, 0, 0

    def synchronize(self) -> None:
        RECORDER.add("stream.synchronize")

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def wait_stream(self, stream: Stream) -> None:
        """No wait of the host."""

    def wait_event(self, event: Event) -> None:
        """No wait of the host."""

    def query(self) -> bool:
        return True

    def __eq__(self, stream: object) -> bool:
        return isinstance(stream, Stream)

    def __hash__(self) -> int:
        return 0


class Event:
    """A point in the stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, *_: Any) -> None:
        """Nothing to remember."""

    def wait(self, *_: Any) -> None:
        """No wait of the host."""

    def synchronize(self) -> None:
        RECORDER.add("event.synchronize")

    def query(self) -> bool:
        return True

    def elapsed_time(self, event: Event) -> float:
        return 0.0


def install() -> PretendedCuda:
    """Switch the pretended GPU on, for all threads of this process and until it ends."""
    for name, value in _torch_cuda().items():
        setattr(torch.cuda, name, value)
    for name in ("range_push", "range_pop", "mark"):
        setattr(torch.cuda.nvtx, name, lambda *_, **__: None)
    torch.Generator = PretendedGenerator  # type: ignore[misc]
    torch.Tensor.data = property(read_data, write_data)  # type: ignore[assignment]
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") becomes an upload
    _gloo_for_nccl()
    _in_every_thread()
    mode = PretendedCuda()
    mode.__enter__()
    return mode


def _torch_cuda() -> dict[str, Any]:
    # A new function per name: torch._dynamo keeps rules for functions of torch.cuda and refuses duplicates.
    def always(value: Any) -> Any:
        return lambda *_, **__: value

    return {
        "is_available": always(True),
        "is_initialized": always(True),
        "_initialized": True,
        "_lazy_init": always(None),
        "_is_in_bad_fork": always(False),
        "init": always(None),
        "device_count": always(1),
        "current_device": always(0),
        "set_device": always(None),
        "_exchange_device": always(0),
        "_maybe_exchange_device": always(0),
        "get_device_properties": always(PROPERTIES),
        "get_device_name": always(PROPERTIES.name),
        "get_device_capability": always((PROPERTIES.major, PROPERTIES.minor)),
        "is_bf16_supported": always(True),
        "get_rng_state": lambda device=None: RANDOMNESS.get_state(),
        "set_rng_state": lambda state, device=None: RANDOMNESS.set_state(state),
        "manual_seed": lambda seed: RANDOMNESS.seed(int(seed)),
        "manual_seed_all": lambda seed: RANDOMNESS.seed(int(seed)),
        "synchronize": lambda device=None: RECORDER.add("synchronize"),
        "mem_get_info": always((140 * GIGABYTE, PROPERTIES.total_memory)),
        "memory_allocated": always(0),
        "memory_reserved": always(0),
        "max_memory_allocated": always(0),
        "max_memory_reserved": always(0),
        "memory_stats": always({}),
        "reset_peak_memory_stats": always(None),
        "empty_cache": always(None),
        "current_stream": lambda device=None: Stream(),
        "default_stream": lambda device=None: Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "Stream": Stream,
        "Event": Event,
    }


def _gloo_for_nccl() -> None:
    """Where a group with NCCL is asked for, make one with gloo for tensors of both devices."""
    init, new_group = dist.init_process_group, dist.new_group

    def replaced(backend: str | None) -> str | None:
        return "cpu:gloo,cuda:gloo" if backend is None or "nccl" in backend else backend

    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("device_id", None)
        Groups.nccl = backend is None or "nccl" in backend
        init(replaced(backend), *args, **kwargs)

    def make_group(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        return new_group(*args, backend=None if backend is None else replaced(backend), **kwargs)

    dist.init_process_group, dist.new_group = init_process_group, make_group


def _in_every_thread() -> None:
    """Modes belong to a thread: enter one in each new thread."""
    plain = threading.Thread.run

    def run(self: threading.Thread) -> None:
        with PretendedCuda():
            plain(self)

    threading.Thread.run = run  # type: ignore[method-assign]
