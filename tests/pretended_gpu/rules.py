"""What the pretended GPU refuses, waits for, moves and draws."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch

from tests.pretended_gpu.tensors import RECORDER


def rules() -> dict[str, Any]:
    """Do what CUDA allows, refuses and waits for; return what happened."""
    return {"refused": _refused(), "waits": _waits(), "parameters": _parameters(), "random": _random()}


def _refused() -> dict[str, str]:
    gpu, cpu = torch.ones(3, device="cuda"), torch.ones(3)
    attempts = {
        "sum of both devices": lambda: gpu + cpu,
        "cat of both devices": lambda: torch.cat([gpu, cpu]),
        "stack of a number of the host": lambda: torch.stack([gpu.sum(), cpu.sum()]),
        "values of the host at indices": lambda: gpu.index_put_((torch.tensor([0, 1]),), cpu[:2]),
        "numpy": gpu.numpy,
        "generator of the host": lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        "pinning": gpu.pin_memory,
    }
    shown = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            shown[name] = "allowed"
        except (RuntimeError, TypeError) as error:
            shown[name] = type(error).__name__
    return shown


def _waits() -> dict[str, list[str]]:
    gpu, cpu, cpu_index = torch.ones(4, device="cuda"), torch.ones(4), torch.tensor([2, 0])
    index, pinned, target = cpu_index.to("cuda"), cpu.pin_memory(), torch.empty(4, pin_memory=True)
    attempts = {
        "float": lambda: float(gpu.sum()),
        "if": lambda: bool((gpu > 0).all()),
        "tolist": gpu.tolist,
        "cpu": gpu.cpu,
        "tensor": lambda: torch.tensor([1, 2], device="cuda"),
        "pageable": lambda: cpu.to("cuda", non_blocking=True),
        "pinned": lambda: pinned[1:].to("cuda", non_blocking=True),
        "pinned, blocking": lambda: pinned.to("cuda"),
        "into pinned": lambda: target.copy_(gpu, non_blocking=True),
        "into pageable": lambda: cpu.copy_(gpu, non_blocking=True),
        "mask": lambda: gpu[gpu > 0],
        "nonzero": gpu.nonzero,
        "unique": gpu.unique,
        "index of the host": lambda: gpu[cpu_index],
        "index of the GPU": lambda: gpu[index],
        "number of the host": lambda: gpu * torch.tensor(2.0) + 1.0,
        "set an item": lambda: gpu.__setitem__(0, 3.0),
        "set a slice": lambda: gpu.__setitem__(slice(1, 3), 1.0),
        "zeros": lambda: torch.zeros(4, device="cuda") + torch.arange(4, device="cuda"),
        "synchronize": torch.cuda.synchronize,
        "inference mode": _in_inference_mode(lambda: gpu.to("cpu")),
    }
    waits = {}
    for name, attempt in attempts.items():
        RECORDER.clear()
        attempt()
        waits[name] = [event.kind + ("" if event.synchronises else ", no wait") for event in RECORDER.events]
    assert gpu.inner.tolist() == [3.0, 1.0, 1.0, 1.0]  # type: ignore[attr-defined]
    return waits


def _in_inference_mode(function: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            function()

    return run


def _parameters() -> dict[str, Any]:
    """A parameter keeps its identity on the way to the GPU, in training there, and on the way back."""
    layer = torch.nn.Linear(3, 3)
    before = layer.weight
    layer.to("cuda")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    values = before.tolist()
    layer(torch.ones(2, 3, device="cuda")).sum().backward()
    optimizer.step()
    copied = copy.deepcopy(layer)
    loaded = torch.load(_saved(layer.state_dict()), map_location="cpu")
    with torch.autocast("cuda", torch.bfloat16):
        low = layer(torch.ones(2, 3, device="cuda")).dtype
    facts = {
        "same object": layer.weight is before,
        "devices": [str(p.device) for p in (before, before.grad, copied.weight, loaded["weight"])],
        "changed": before.tolist() != values,
        "equal": copied.weight.tolist() == before.tolist() == loaded["weight"].tolist(),
        "autocast": str(low),
        "parameters": isinstance(before, torch.nn.Parameter)
        and isinstance(copied.weight, torch.nn.Parameter),
    }
    layer.zero_grad()
    layer.to("cpu")
    layer(torch.ones(2, 3)).sum().backward()
    return {**facts, "back": [layer.weight is before, str(before.device), type(before).__name__]}


def _saved(state: Any) -> io.BytesIO:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def _random() -> list[bool]:
    torch.manual_seed(0)
    gpu = torch.rand(3, device="cuda").tolist()  # does not move the CPU's generator
    cpu = torch.rand(3).tolist()
    torch.cuda.manual_seed(7)
    third = torch.rand(3, device="cuda").tolist()
    generator = torch.Generator("cuda").manual_seed(7)
    return [gpu == cpu, third == torch.rand(3, device="cuda", generator=generator).tolist()]
