"""A tensor that says "cuda:0" and computes on the CPU, and the rules of CUDA that it keeps.

`PretendedTensor` wraps a CPU tensor. `PretendedCuda` is a dispatch mode: every operation of torch, below
autograd and autocast, goes through `run`, which

* gives a `PretendedTensor` where an operation is asked for one on a GPU,
* refuses to mix tensors of GPU and CPU as CUDA does,
* draws random numbers of the GPU from a generator of its own,
* records each operation that makes the host wait.

It shows no fault of a kernel, of memory, of speed or of NCCL.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.pretended_gpu import kernels
from tests.pretended_gpu.recorder import Recorder

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
RECORDER = Recorder()
_set_data = torch.Tensor.data.__set__
_get_data = torch.Tensor.data.__get__


class PretendedTensor(torch.Tensor):
    """Says that it is on "cuda:0"; its numbers are in `inner`, on the CPU."""

    inner: Tensor
    is_wrapper = False  # or a tensor of the host that has moved to the GPU: see write_data
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        assert type(inner) is not PretendedTensor
        outer: PretendedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=GPU,
        )
        outer.inner, outer.is_wrapper = inner, True
        return outer

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle as a tensor of the host: torch.load with map_location gives the same."""
        RECORDER.add("download", num_bytes=num_bytes(self))
        host = self.inner.detach()
        if isinstance(self, torch.nn.Parameter):
            return torch.nn.Parameter(host, self.requires_grad).__reduce_ex__(protocol)
        return host.requires_grad_(self.requires_grad).__reduce_ex__(protocol)

    def numpy(self, **_: Any) -> Any:
        """Refused, as for every tensor of a GPU."""
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
            "memory first."
        )

    def record_stream(self, stream: Any) -> None:
        """Nothing: memory is free when Python says so."""

    def tolist(self) -> Any:
        """One download; torch refuses it to subclasses."""
        RECORDER.add("tolist", num_bytes=num_bytes(self))
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({self.inner!r})"


def read_data(tensor: Tensor) -> Tensor:
    """`tensor.data`."""
    return PretendedTensor(tensor.inner) if isinstance(tensor, PretendedTensor) else _get_data(tensor)


def write_data(tensor: Tensor, value: Tensor) -> None:
    """`tensor.data = value`: also from one device to the other, as `Module.to` and ZeRO do with parameters.

    The object stays and becomes an instance of the other class.
    """
    _set_data(tensor, value)
    if isinstance(value, PretendedTensor):
        if not isinstance(tensor, PretendedTensor):
            tensor._is_param = isinstance(tensor, torch.nn.Parameter)  # type: ignore[attr-defined]
            tensor.__class__ = PretendedTensor
        tensor.inner = value.inner
    elif isinstance(tensor, PretendedTensor):
        if tensor.is_wrapper:
            raise NotImplementedError("a tensor that was made on the pretended GPU cannot leave it in place")
        del tensor.inner
        tensor.__class__ = torch.nn.Parameter if isinstance(tensor, torch.nn.Parameter) else Tensor


class PretendedGenerator(torch.Generator):
    """A generator of either device; the numbers are those of the CPU's."""

    #: Addresses of the generators of the GPU: an operation gets another Python object for the same generator.
    of_gpu: ClassVar[set[int]] = set()
    device = CPU

    def __new__(cls, device: Any = CPU) -> PretendedGenerator:
        generator = super().__new__(cls)
        if torch.device(device).type == "cuda":
            generator.device = GPU
            cls.of_gpu.add(generator._cdata)
            weakref.finalize(generator, cls.of_gpu.discard, generator._cdata)
        return generator

    def __init__(self, device: Any = CPU) -> None:
        pass


class GpuRandomness:
    """The generator of the device: its numbers do not depend on those that the CPU has drawn."""

    def __init__(self) -> None:
        self._generator = torch._C.Generator()
        self._lock = threading.RLock()

    def get_state(self) -> Tensor:
        """Return the state."""
        return self._generator.get_state()

    def set_state(self, state: Tensor) -> None:
        """Continue from a state."""
        self._generator.set_state(state)

    def seed(self, seed: int) -> None:
        """Restart."""
        self._generator.manual_seed(seed)

    @contextlib.contextmanager
    def instead_of_the_cpus(self) -> Iterator[None]:
        """Let torch's CPU operations draw from this generator."""
        with self._lock:
            host = torch.default_generator.get_state()
            torch.default_generator.set_state(self._generator.get_state())
            try:
                yield
            finally:
                self._generator.set_state(torch.default_generator.get_state())
                torch.default_generator.set_state(host)


RANDOMNESS = GpuRandomness()


class PretendedCuda(TorchDispatchMode):
    """Sends every operation of its thread through `run`."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do not import torch._dynamo, a second of every process."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not torch.is_inference_mode_enabled():
            return run(func, args, kwargs or {})
        # Inference mode has other tensors, which no wrapper of a plain tensor can be: it becomes no_grad.
        with torch.inference_mode(False), torch.no_grad():
            if not _is_composite(func):
                return run(func, args, kwargs or {})
            with self:  # and it hands some operations over whole
                return func.decompose(*args, **(kwargs or {}))


@functools.cache
def _is_composite(func: Any) -> bool:
    return isinstance(func, torch._ops.OpOverload) and func._can_decompose()


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operation as a machine with a GPU would."""
    name = func._schema.name
    if name.startswith("c10d::"):
        return _collective(func, args, kwargs)
    special = OPERATIONS.get(name)
    if special is not None:
        return special(func, args, kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    device = kwargs.get("device")
    wants_gpu = device is not None and torch.device(device).type == "cuda"
    if not on_gpu and not wants_gpu:
        return _on_host(func, args, kwargs)
    if on_gpu:
        _refuse_mixed(func, name, args, tensors)
        _record_waits(name, args, kwargs)
    kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    generators = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch._C.Generator)]
    _refuse_generators(generators)
    draws = torch.Tag.nondeterministic_seeded in func.tags and not generators
    with RANDOMNESS.instead_of_the_cpus() if draws else contextlib.nullcontext():
        result = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    if device is not None and not wants_gpu:
        return result
    return _wrap(result, on_gpu)


def _wrap(result: Any, on_gpu: list[PretendedTensor]) -> Any:
    """Return new tensors wrapped; an operation in place or with `out=` returns the tensor that it got."""
    given = {id(tensor.inner): tensor for tensor in on_gpu}

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in given:
            return PretendedTensor(value)
        outer = given[id(value)]
        if outer.shape != value.shape or outer.stride() != value.stride():  # resize_, t_, set_
            _set_data(outer, PretendedTensor(value))
        return outer

    return tree_map(wrap, result)


def _unwrap(value: Any) -> Any:
    if isinstance(value, PretendedTensor):
        return value.inner
    return CPU if isinstance(value, torch.device) else value


def num_bytes(tensor: Tensor) -> int:
    """Size of a tensor's elements."""
    return tensor.numel() * tensor.element_size()


# What CUDA refuses

_INDEXING = {"aten::index", "aten::index_put_", "aten::index_put", "aten::_index_put_impl_"}


def _refuse_mixed(func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
    """Elementwise operations take numbers of the host, indexing takes its indices; nothing else goes."""
    allowed = set()
    if name in _INDEXING:
        allowed = {id(index) for index in tree_leaves(args[1]) if isinstance(index, Tensor)}
    scalars = torch.Tag.pointwise in func.tags or name in _INDEXING or name in _TAKES_SCALARS
    for tensor in tensors:
        if isinstance(tensor, PretendedTensor) or id(tensor) in allowed:
            continue
        if not (scalars and tensor.dim() == 0):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but got one of shape "
                f"{tuple(tensor.shape)} on cpu, different from other tensors on cuda:0 (in {name})"
            )


#: Take a tensor of the host without dimensions, though torch does not tag them as elementwise.
_TAKES_SCALARS = {
    "aten::fill_",
    "aten::fill",
    "aten::masked_fill",
    "aten::masked_fill_",
    "aten::_fused_adamw_",
}


def _refuse_generators(generators: list[Any]) -> None:
    for generator in generators:
        if generator._cdata not in PretendedGenerator.of_gpu:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


# What the host waits for

_WAITS = {
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::equal",
    "aten::is_nonzero",
    "aten::bincount",
    "aten::histc",
}


def _record_waits(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """Record operations whose result has a size that the device knows, and indices of the host."""
    short = name.removeprefix("aten::")
    if name in _WAITS or (name == "aten::repeat_interleave" and kwargs.get("output_size") is None):
        RECORDER.add(short)
    elif name in _INDEXING and isinstance(args[0], PretendedTensor):
        for index in tree_leaves(args[1]):
            if isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8):
                RECORDER.add("mask as index", num_bytes=num_bytes(index))
            elif isinstance(index, Tensor) and not isinstance(index, PretendedTensor):
                RECORDER.add("upload of an index", num_bytes=num_bytes(index))


def _item(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    (tensor,) = args
    if not isinstance(tensor, PretendedTensor):
        return func(tensor)
    RECORDER.add("item", num_bytes=num_bytes(tensor))
    return func(tensor.inner)


def _record_copy(source: Tensor, to_gpu: bool, non_blocking: bool) -> None:
    from_gpu = isinstance(source, PretendedTensor)
    if from_gpu == to_gpu:
        return
    if from_gpu:
        RECORDER.add("download", synchronises=not non_blocking, num_bytes=num_bytes(source))
    elif is_pinned(source):
        RECORDER.add("pinned upload", synchronises=not non_blocking, num_bytes=num_bytes(source))
    else:  # even if it is asked not to block: the driver first waits for the stream
        RECORDER.add("pageable upload", num_bytes=num_bytes(source))


def _to_copy(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    (source,) = args
    device = kwargs.get("device")
    to_gpu = isinstance(source, PretendedTensor) if device is None else torch.device(device).type == "cuda"
    _record_copy(source, to_gpu, bool(kwargs.get("non_blocking")))
    options = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    result = func(_unwrap(source), **tree_map(_unwrap, options))
    return PretendedTensor(result) if to_gpu else result


def _copy_in_place(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    target, source = args[0], args[1]
    non_blocking = bool(args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
    to_gpu = isinstance(target, PretendedTensor)
    # A download into pageable memory blocks, even if it is asked not to.
    _record_copy(source, to_gpu, non_blocking and (to_gpu or is_pinned(target)))
    func(_unwrap(target), _unwrap(source))
    return target


# Pinned memory: a mark on the storage, which views share


def is_pinned(tensor: Tensor) -> bool:
    """Whether a tensor of the host is in memory that a GPU can copy from without the driver's help."""
    return not isinstance(tensor, PretendedTensor) and hasattr(tensor.untyped_storage(), "pinned")


def _on_host(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if not kwargs.get("pin_memory"):
        return func(*args, **kwargs)
    return _pinned(func(*args, **{key: value for key, value in kwargs.items() if key != "pin_memory"}))


def _pinned(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().pinned = True  # type: ignore[attr-defined]
    return tensor


def _pin_memory(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    if isinstance(args[0], PretendedTensor):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return _pinned(args[0].clone())


class Groups:
    """What the process groups of this process stand for."""

    nccl = False  # asked for: no collective on tensors of the host


def _collective(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run a collective on the numbers of the host, where gloo is in the place of NCCL."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    given = {id(tensor.inner): tensor for tensor in tensors if isinstance(tensor, PretendedTensor)}
    if func._schema.name == "c10d::barrier":
        RECORDER.add("barrier")
    elif Groups.nccl and len(given) < len(tensors) and not _of_objects():
        raise RuntimeError("No backend type associated with device type cpu")
    result = func(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs))
    return tree_map(lambda value: given.get(id(value), value), result)


def _of_objects() -> bool:
    """Whether torch runs a collective of Python objects; with NCCL it would take them over the GPU."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if "object" in frame.f_code.co_name and frame.f_code.co_filename.endswith("distributed_c10d.py"):
            return True
        frame = frame.f_back
    return False


def _kernel(function: Callable[..., Any]) -> Callable[[Any, Any, dict[str, Any]], Any]:
    """Make a stand-in for a kernel of CUDA an operation of the device."""

    def run_kernel(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        _refuse_mixed(func, func._schema.name, args, tensors)
        return _wrap(function(*tree_map(_unwrap, args), **tree_map(_unwrap, kwargs)), [])

    return run_kernel


#: Operations that `run` does not leave to torch.
OPERATIONS: dict[str, Callable[[Any, Any, dict[str, Any]], Any]] = {
    "aten::_local_scalar_dense": _item,
    "aten::_to_copy": _to_copy,
    "aten::copy_": _copy_in_place,
    "aten::is_pinned": lambda func, args, kwargs: is_pinned(args[0]),
    "aten::_pin_memory": _pin_memory,
    "torch_attn::_varlen_attn": _kernel(kernels.varlen_attention),
    "torch_attn::_varlen_attn_backward": _kernel(kernels.varlen_attention_backward),
}
