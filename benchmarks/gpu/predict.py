"""Predict the time of a contrastive step on one GPU from the kernels of the package's own encoder and engine.

    with pretended_h200():
        step = predict(SIZES["xlmr-base"], CODES[0], Workload(), Rates())

Every chunk shape of the step is encoded once without and once with graph through the package's engine, on
tensors without data (`benchmarks.gpu.tally`); the loss is the package's `contrast` at full size. A kernel
takes the time that its FLOPs or its bytes need at the given rates. The host launches kernels ahead of the
GPU: the slower of the two counts. Only `compiled` is an estimate of code that does not run here, see
`tally.fused`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from benchmarks.gpu.model import encoder_of
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.sizes import Size, model_flops
from benchmarks.gpu.tally import Kernel, Tally, fused, kernel_seconds
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import contrast
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.settings import Precision, ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings

DEVICE = "cuda:0"
#: Bytes per parameter of clipping and AdamW: norm 4, scale 8, states and weights 28; of a bf16 copy 6.
OPTIMIZER_BYTES, COPY_BYTES = 40, 6


@dataclass(frozen=True)
class Workload:
    """One step on one GPU: pairs, and tokens of a question and of a passage."""

    pairs: int = 32_768
    lengths: tuple[int, int] = (64, 192)


@dataclass(frozen=True)
class Code:
    """A way to compute the step; the default is the package's on a GPU.

    Attributes:
        name: of the line in the table.
        chunk_tokens, chunk_rows: what ends a chunk.
        precision: `deepspeed.precision` of the plain engine.
        masks: transformers: made by transformers, as in the first wave; ready: of padded rows; "none": rows
            have one length; packed: without attention dropout, rows are packed.
        tf32_loss: `loss.products`.
        compiled: layers are compiled (an estimate).
        kept: share of the chunks whose graph is kept instead of encoding them again.
    """

    name: str
    chunk_tokens: int = 65_536
    chunk_rows: int = 32_768
    precision: Precision = "bf16_copy"
    masks: Literal["transformers", "ready", "none", "packed"] = "none"
    tf32_loss: bool = True
    compiled: bool = False
    kept: float = 0.0


_FIRST = Code(
    "first wave: float32 weights, autocast, masks, 64 rows",
    chunk_rows=64,
    precision="bf16_autocast",
    masks="transformers",
    tf32_loss=False,
)
_COMPILED = Code("compiled layers", compiled=True)
CODES = (
    _FIRST,
    replace(_FIRST, name="the same, 65,536 tokens", chunk_rows=32_768),
    Code("bf16 copy of the weights, ready masks", masks="ready"),
    Code("no masks"),
    Code("packed rows, no attention dropout", masks="packed"),
    _COMPILED,
    replace(_COMPILED, name="half of the graphs kept", kept=0.5),
    replace(_COMPILED, name="all graphs kept", kept=1.0),
)


@dataclass(frozen=True)
class Passes:
    """Kernels of one chunk: encoded without graph, and encoded with graph and backpropagated."""

    without_graph: tuple[Kernel, ...]
    with_graph: tuple[Kernel, ...]
    graph_bytes: int  # held between forward and backward, parameters not counted

    def compiled(self) -> Passes:
        """Return the passes as a compiler might run them."""
        return Passes(tuple(fused(self.without_graph)), tuple(fused(self.with_graph)), self.graph_bytes)


@dataclass(frozen=True)
class Prediction:
    """A predicted step."""

    code: Code
    gpu_seconds: float
    host_seconds: float
    kernels: float
    chunk_kernels: tuple[int, int]  # of a chunk of passages: without graph, with graph and backward
    model_flops: float
    flops: float  # with the second forwards
    parts: dict[str, float]  # seconds by kind of kernel
    graph_bytes_per_token: float
    peak_flops: float

    @property
    def seconds(self) -> float:
        """Seconds of the slower of GPU and host."""
        return max(self.gpu_seconds, self.host_seconds)

    @property
    def mfu(self) -> float:
        """Model FLOPs per second over the peak."""
        return self.model_flops / self.seconds / self.peak_flops

    @property
    def hfu(self) -> float:
        """All FLOPs per second over the peak."""
        return self.flops / self.seconds / self.peak_flops


def engine_of(size: Size, code: Code) -> Engine:
    """Return the package's plain engine around its encoder, on the pretended GPU, without data."""
    attention_dropout = 0.0 if code.masks == "packed" else None
    encoder = encoder_of(size, 0.1, "meta", attention_dropout=attention_dropout)
    if code.masks == "transformers":
        encoder.backbone.set_attn_implementation("sdpa")  # type: ignore[union-attr, operator]
    engine = build_engine(
        encoder.to(DEVICE),
        optimizer=OptimizerSettings(),
        total_steps=10,
        world=World.alone(DEVICE),
        deepspeed=ResolvedDeepSpeed(precision=code.precision),
    )
    engine.train()
    return engine


def passes_of(engine: Engine, rows: int, length: int, *, padded: bool) -> Passes:
    """Count the kernels of one chunk of `rows` texts of `length` tokens, one of them shorter if `padded`."""
    lengths = [length] * (rows - 1) + [length - 1 if padded else length]
    input_ids = torch.full((rows, length), 5, device=DEVICE)
    mask = torch.ones((rows, length), dtype=torch.int64, device=DEVICE)
    with torch.no_grad():
        width = engine.encode(input_ids, mask, lengths)[0].shape[1]  # the copy of the weights exists now
        with Tally() as first:
            engine.encode(input_ids, mask, lengths)
    gradient = torch.zeros((rows, width), device=DEVICE)

    def surrogate() -> Tensor:
        return (engine.encode(input_ids, mask, lengths)[0].float() * gradient).sum()

    if any(parameter.grad is None for parameter in engine.model.parameters()):
        engine.accumulate([surrogate])  # later chunks add to gradients that exist
    with torch.no_grad():
        engine.encode(input_ids, mask, lengths)  # the copy again, which `accumulate` frees
    saved: dict[int, int] = {}
    copies = engine.model._copies.values()
    parameters = {p.untyped_storage()._cdata for p in [*engine.model.parameters(), *copies]}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage.nbytes()
        return tensor

    with Tally() as second, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        engine.accumulate([surrogate])
    return Passes(tuple(first.kernels), tuple(second.kernels), sum(saved.values()))


def loss_kernels(pairs: int, width: int, row_chunk: int = 1024) -> tuple[Kernel, ...]:
    """Count the kernels of the package's loss and its gradients at the embeddings of one GPU."""
    questions, passages = (torch.empty((pairs, width), device=DEVICE) for _ in range(2))
    settings = LossSettings(row_chunk=row_chunk, kernel="rows", mask_false_negatives=False)
    with torch.no_grad(), Tally() as tally:
        contrast(questions, passages, Layout(0, 1, pairs, 0), settings, scale=20.0)
    return tuple(tally.kernels)


class Predictor:
    """Predictions that share the counted passes of equal chunks."""

    def __init__(self, rates: Rates, workload: Workload) -> None:
        self._rates, self._work = rates, workload
        self._passes: dict[tuple[Any, ...], Passes] = {}
        self._loss: dict[int, tuple[Kernel, ...]] = {}

    def predict(self, size: Size, code: Code) -> Prediction:
        """Predict one step of an encoder of this size."""
        seconds: Counter[str] = Counter()
        launched = flops = graph = 0.0
        engine: Callable[[], Engine] = cache(lambda: engine_of(size, code))
        kernels_of_chunk = (0, 0)
        for length in self._work.lengths:
            rows = min(code.chunk_rows, code.chunk_tokens // length)
            chunks = self._work.pairs / rows
            passes = self._count(size, code, rows, length, engine)
            graph += passes.graph_bytes * chunks
            kernels_of_chunk = len(passes.without_graph), len(passes.with_graph)
            for kernels, times in ((passes.without_graph, 1 - code.kept), (passes.with_graph, 1.0)):
                self._add(seconds, kernels, chunks * times)
                launched += len(kernels) * chunks * times
                flops += sum(kernel.flops for kernel in kernels) * chunks * times
        width = size["hidden_size"]
        if width not in self._loss:
            self._loss[width] = loss_kernels(self._work.pairs, width)
        loss = self._loss[width]
        seconds["loss"] = sum(kernel_seconds(k, self._rates, tf32=code.tf32_loss) for k in loss)
        parameters = parameters_of(size)
        per_parameter = OPTIMIZER_BYTES + (COPY_BYTES if code.precision == "bf16_copy" else 0)
        seconds["optimizer"] = per_parameter * parameters / self._rates.bytes_per_second
        tokens = self._work.pairs * sum(self._work.lengths)
        return Prediction(
            code=code,
            gpu_seconds=sum(seconds.values()),
            host_seconds=(launched + len(loss)) * self._rates.host_seconds,
            kernels=launched + len(loss),
            chunk_kernels=kernels_of_chunk,
            model_flops=model_flops(size, parameters, self._work.pairs, self._work.lengths),
            flops=flops,
            parts=dict(seconds),
            graph_bytes_per_token=graph / tokens,
            peak_flops=self._rates.peak_flops,
        )

    def _count(self, size: Size, code: Code, rows: int, length: int, engine: Callable[[], Engine]) -> Passes:
        key = (tuple(size.values()), code.precision, code.masks, rows, length)
        if key not in self._passes:
            self._passes[key] = passes_of(engine(), rows, length, padded=code.masks == "ready")
        return self._passes[key].compiled() if code.compiled else self._passes[key]

    def _add(self, seconds: Counter[str], kernels: Iterable[Kernel], times: float) -> None:
        for kernel in kernels:
            seconds[kernel.kind] += times * kernel_seconds(kernel, self._rates)


@cache
def parameters_of_shape(shape: tuple[tuple[str, int], ...]) -> int:
    """Return the parameters of an XLM-R of this shape."""
    return sum(parameter.numel() for parameter in encoder_of(dict(shape), 0.0, "meta").parameters())


def parameters_of(size: Size) -> int:
    """Return the parameters of an XLM-R of this size."""
    return parameters_of_shape(tuple(size.items()))
