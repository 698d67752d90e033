"""Time and memory of the device that a check runs on, and what is installed next to torch."""

from __future__ import annotations

import gc
import importlib.metadata
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.report import Clock

PACKAGES = ("numpy", "transformers", "pydantic", "deepspeed", "ray", "faiss", "liger-kernel", "triton")


class Device:
    """Memory and time on a GPU, or on the CPU where memory is not measured."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.cuda = name.startswith("cuda")

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self) -> int:
        """Forget the peak; returns the bytes in use."""
        gc.collect()
        if not self.cuda:
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        """Highest bytes in use since `reset`."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def seconds(self, call: Callable[[], object], repeats: int = 3) -> float:
        """Return the shortest of some repetitions, after one that does not count."""
        call()
        durations = []
        for _ in range(repeats):
            self.sync()
            began = time.perf_counter()
            call()
            self.sync()
            durations.append(time.perf_counter() - began)
        return min(durations)

    def facts(self) -> dict[str, Any]:
        """Return what was measured on."""
        facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
        facts["packages"] = {name: version_of(name) for name in PACKAGES}
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.torch)
            facts |= {"device": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
            facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        return facts | {"device_type": self.torch.type}


def version_of(package: str) -> str | None:
    """Return the version of an installed package, None if it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Context:
    """What a part is given: where it runs, for how long, and the options of the command."""

    device: Device
    clock: Clock
    tiny: bool = False
    engine: str = "both"  # plain, deepspeed or both: which engines the training part measures
    padded: bool | None = None  # None: both
    chunk_rows: tuple[int, ...] = ()
    models: tuple[str, ...] = ("xlmr-base",)
    global_batches: tuple[int, ...] = (8192, 32768)
    steps: int = 1
    python: tuple[str, ...] = ()  # the interpreter of the processes that a part starts
