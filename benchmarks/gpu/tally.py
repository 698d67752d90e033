"""Count the kernels, FLOPs and bytes of code on a GPU that is not there, at any size and in seconds.

    with pretended_h200(), Tally() as tally:        # tensors without data on cuda:0
        encoder(input_ids.to("cuda:0"), attention_mask.to("cuda:0"))
    seconds = sum(kernel_seconds(kernel, Rates()) for kernel in tally.kernels)

FakeTensorMode computes shapes and types only; the guard library of `tests.pretended_gpu`, loaded before
torch, lets tensors be on ``cuda:0``, so that autocast follows CUDA's rules. An operator counts as one kernel;
views count as none. Each kernel reads and writes whole storages once; a lookup reads the rows that it
returns.

`fused` estimates what a compiler makes of it: matrix products, attention, lookups and sums of gradients stay;
other operators that can run between them become one kernel, which reads what it did not make and writes what
is read later. That is the least traffic that a compiler reaches without recomputing, and no measurement.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.gpu.rates import Rates

aten = torch.ops.aten
_LOOKUPS = {"embedding", "gather", "index_select", "index"}
_PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm"}
#: Operators that make no kernel although their schema names no alias.
_NO_KERNEL = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "device",
    "_unsafe_view",
}
_NO_KERNEL |= {"is_same_size", "lift_fresh", "_local_scalar_dense", "sym_size"}


@dataclass(frozen=True)
class Kernel:
    """One operator on the GPU, with the storages that it reads and writes: number -> bytes."""

    name: str
    flops: float
    dtype: torch.dtype | None  # of the first input with a floating point
    reads: dict[int, int]
    writes: dict[int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes read and written."""
        return sum(self.reads.values()) + sum(self.writes.values())

    @property
    def kind(self) -> str:
        """A group for tables."""
        groups = {
            "attention": "attention",
            "attn": "attention",
            "layer_norm": "LayerNorm",
            "dropout": "dropout",
            "gelu": "GELU",
        }
        groups |= {"embedding": "embedding", "_to_copy": "casts", "fused": "fused elementwise"}
        groups |= {"add_": "gradient sums"}  # autograd's; no layer adds in place
        if self.name in _PRODUCTS:
            return "products"
        return next((kind for part, kind in groups.items() if part in self.name), "elementwise")

    @property
    def stays(self) -> bool:
        """Whether a compiler leaves this kernel as it is."""
        return self.kind in {"products", "attention", "embedding", "gradient sums"}


def kernel_seconds(kernel: Kernel, rates: Rates, *, tf32: bool = False) -> float:
    """Return the time of a kernel: its arithmetic, its traffic or its least time, the largest of them.

    Args:
        kernel: with its operations and bytes.
        rates: of the device.
        tf32: whether float32 products run as TF32.
    """
    rate = rates.tf32_products if tf32 else rates.fp32_products
    if kernel.kind == "attention":
        forward, backward = rates.attention_forward, rates.attention_backward
        if "efficient" in kernel.name:
            forward, backward = rates.masked_attention_forward, rates.masked_attention_backward
        rate = backward if "backward" in kernel.name else forward
    elif kernel.dtype in {torch.bfloat16, torch.float16}:
        rate = rates.bf16_products
    return max(kernel.flops / rate, kernel.num_bytes / rates.bytes_per_second, rates.kernel_seconds)


class Tally(TorchDispatchMode):
    """Collect the kernels on ``cuda:0`` inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[Kernel] = []
        self._kept: list[Any] = []  # a number stays that of one storage while the storage exists

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if name == "_local_scalar_dense":  # a value that no fake tensor has
            return 0.0 if args[0].is_floating_point() else 0
        result = func(*args, **kwargs)
        if name not in _NO_KERNEL and not _is_view(func):
            self._count(func, name, args, kwargs, result)
        return result

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, Tensor)]
        if not any(t.device.type == "cuda" for t in [*inputs, *outputs]):
            return
        self._kept += [t.untyped_storage() for t in [*inputs, *outputs]]
        writes = {_storage(t): _num_bytes(t) for t in outputs}
        reads = {_storage(t): _num_bytes(t) for t in inputs if _storage(t) not in writes or name == "add_"}
        if name in _LOOKUPS:
            reads = {number: min(size, sum(writes.values())) for number, size in reads.items()}
        counter = flop_registry.get(func._overloadpacket)
        flops = 0.0
        if name == "addmm_":
            flops = 2.0 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
        elif counter is not None:
            flops = float(counter(*args, **kwargs, out_val=result))
        dtype = next((t.dtype for t in inputs if t.is_floating_point()), None)
        self.kernels.append(Kernel(name, flops, dtype, reads, writes))


def _is_view(func: Any) -> bool:
    """Whether the result shares the memory of an argument that is not written."""
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _num_bytes(tensor: Tensor) -> int:
    """Bytes of the distinct elements; an expanded dimension is read once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride else 1
    return elements * tensor.element_size()


def fused(kernels: Sequence[Kernel]) -> list[Kernel]:
    """Return the kernels with all elementwise work that can run after the same kernel as one.

    An operator belongs to the last of the kernels that stay on which it depends, however late it was called:
    the sum of a gradient over rows, for example, joins the work that made the gradient.
    """
    level: dict[int, int] = {}  # storage -> number of staying kernels that must have run before it exists
    groups: dict[int, list[Kernel]] = {}
    readers: dict[int, set[int | None]] = {}  # storage -> groups that read it, None: a kernel that stays
    staying: list[Kernel] = []
    for kernel in kernels:
        group = None if kernel.stays else max((level.get(number, 0) for number in kernel.reads), default=0)
        for number in kernel.reads:
            readers.setdefault(number, set()).add(group)
        if group is None:
            staying.append(kernel)
        else:
            groups.setdefault(group, []).append(kernel)
        level |= dict.fromkeys(kernel.writes, len(staying) if group is None else group)
    result = []
    for number in range(len(staying) + 1):
        result += staying[number - 1 : number] if number else []
        if number in groups:
            result.append(_fused_group(groups[number], number, readers))
    return result


def _fused_group(group: Sequence[Kernel], number: int, readers: dict[int, set[int | None]]) -> Kernel:
    """Return one kernel that reads what the group did not make, and writes what is read outside of it."""
    made: set[int] = set()
    reads: dict[int, int] = {}
    writes: dict[int, int] = {}
    for kernel in group:
        reads |= {storage: size for storage, size in kernel.reads.items() if storage not in made}
        made |= kernel.writes.keys()
        writes |= {
            storage: size
            for storage, size in kernel.writes.items()
            if readers.get(storage, {None}) != {number}
        }
    return Kernel("fused", 0.0, None, reads, writes)


class HopperAttention(TorchFunctionMode):
    """Let scaled_dot_product_attention take the kernel that CUDA takes: flash, with a mask memory-efficient.

    A build of torch without CUDA has no choice to make and would write the products out.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.nn.functional.scaled_dot_product_attention or args[0].device.type != "cuda":
            return func(*args, **kwargs)
        names = ("query", "key", "value", "attn_mask", "dropout_p")
        kwargs |= dict(zip(names, args, strict=False))
        query, key, value = (kwargs[name] for name in names[:3])
        mask, dropout, scale = kwargs.get("attn_mask"), kwargs.get("dropout_p", 0.0), kwargs.get("scale")
        if mask is None:
            return aten._scaled_dot_product_flash_attention(query, key, value, dropout, scale=scale)[0]
        bias = torch.zeros_like(mask, dtype=query.dtype).expand(*query.shape[:3], key.shape[2])
        graph = torch.is_grad_enabled()
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, bias, graph, dropout, scale=scale
        )[0]


def _rebuilt(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Do what `nn.Module.to` does; it exchanges contents, which tensors without data refuse."""
    device, dtype, *_ = torch._C._nn._parse_to(*args, **kwargs)
    for part in module.modules():
        for name, value in [*part._parameters.items(), *part._buffers.items()]:
            if value is None:
                continue
            new_dtype = dtype if dtype is not None and value.is_floating_point() else value.dtype
            moved = torch.empty(value.shape, dtype=new_dtype, device=device or value.device)
            if name in part._buffers:
                part._buffers[name] = moved
            else:
                part._parameters[name] = nn.Parameter(moved, requires_grad=value.requires_grad)
    return module


@contextmanager
def pretended_h200() -> Iterator[None]:
    """Make ``cuda:0`` a device for tensors without data; `load_guard` ran before torch was imported."""
    with ExitStack() as stack:
        cuda = {"is_available": lambda: True, "is_bf16_supported": lambda *_, **__: True}
        cuda |= {"get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8), "_lazy_init": lambda: None}
        cuda |= {"set_rng_state": lambda *_: None, "current_device": lambda: 0, "device_count": lambda: 1}
        for name, function in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(nn.Module, "to", _rebuilt))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor, *_: tensor))
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, before)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(HopperAttention())
        yield
