"""Measure the loss: its matrix products alone, then loss and gradients by kernel, precision and row_chunk.

The products need torch alone. Sizes are b questions of this rank x N gathered passages: 32,768^2 and
131,072^2 are the whole batch on one GPU, 16,384 x 1,048,576 is the share of one of 64.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import Context, Device
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.report import Figures
from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.common.precision import products

Products = Literal["ieee", "tf32", "bf16"]
PRODUCTS: tuple[Products, ...] = ("tf32", "ieee", "bf16")
#: Largest extra bytes of 16,384 x 1,048,576: passages' gradient, scores and their copy.
MEMORY_LIMIT_GB = 12.0


@dataclass(frozen=True)
class Size:
    """b questions, N passages, and the values of row_chunk to measure."""

    rows: int
    columns: int
    row_chunks: tuple[int, ...] = (256, 1024, 2048)

    @property
    def name(self) -> str:
        """Return the size as text."""
        return f"{self.rows:,} x {self.columns:,}"


SIZES = (Size(32_768, 32_768), Size(131_072, 131_072, (1024,)), Size(16_384, 1_048_576, (256, 1024)))
TINY = (Size(64, 64, (16, 64)), Size(32, 256, (16,)))


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield the products of every size, then the losses of every size, from small to large."""
    device, sizes, width = context.device, TINY if context.tiny else SIZES, 16 if context.tiny else 768
    for size in sizes:
        rows, columns = unit_rows(device, size.rows, width, 0), unit_rows(device, size.columns, width, 1)
        for precision in PRODUCTS:
            yield f"products {precision}, {size.name}", measure_products(device, rows, columns, precision)
    if importlib.util.find_spec("pydantic") is None:
        yield "loss", {"skipped": "the loss's settings need pydantic: pip install pydantic"}
        return
    from benchmarks.gpu.parts.loss_kernels import losses

    rates: dict[str, float] = {}
    for size in sizes:
        rows, columns = unit_rows(device, size.rows, width, 0), unit_rows(device, size.columns, width, 1)
        for row_chunk in size.row_chunks:
            for name, call in losses(rows, columns, row_chunk, device.torch):
                # As long as the last loss of this kind took, per score.
                kind = name.split(",", maxsplit=1)[0]
                expected = 2 * rates.get(kind, 0.0) * size.rows * size.columns
                label = f"{name}, {size.name}, row_chunk {row_chunk}"
                if (reason := context.clock.too_long(expected)) is not None:
                    yield label, {"skipped": reason}
                    continue
                figures = measure(device, call, size, width)
                rates[kind] = figures.get("seconds", 0.0) / (size.rows * size.columns)
                yield label, figures


def unit_rows(device: Device, rows: int, width: int, seed: int) -> Tensor:
    """Return random embeddings of length 1, drawn on the device."""
    generator = torch.Generator(device.torch).manual_seed(seed)
    return F.normalize(torch.randn(rows, width, device=device.torch, generator=generator), dim=-1)


def measure_products(device: Device, rows: Tensor, columns: Tensor, precision: Products) -> Figures:
    """Return what the loss's three products need at full size, from one chunk of 1,024 rows."""
    some = min(1024, len(rows))
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    part, every = rows[:some].to(dtype), columns.to(dtype)

    def three() -> None:
        scores = part @ every.T
        scores @ every
        scores.T @ part

    with products("tf32" if precision == "tf32" else "ieee"):
        seconds = device.seconds(three)
    flops = 6.0 * some * len(columns) * rows.shape[1]
    rates = Rates()
    assumed = {"ieee": rates.fp32_products, "tf32": rates.tf32_products, "bf16": rates.bf16_products}
    whole = len(rows) / some
    return {
        "seconds": round(seconds * whole, 5),
        "predicted": round(flops * whole / assumed[precision], 5),
        "tflops_per_second": round(flops / seconds / 1e12, 3),
    }


def measure(device: Device, call: Callable[[], Any], size: Size, width: int) -> Figures:
    """Return the seconds of loss and gradients, and the memory above the embeddings."""
    try:
        call()  # compilation and workspaces
        before = device.reset()
        device.sync()
        began = time.perf_counter()
        loss = call().loss
        device.sync()
        seconds, peak = time.perf_counter() - began, device.peak()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        device.reset()
        return {"skipped": "out of memory"}
    figures: Figures = {"seconds": round(seconds, 5), "loss": float(loss)}
    if peak is not None:
        figures["extra_gb"] = round((peak - before) / 1e9, 3)
        figures["whole_matrix_gb"] = round(size.rows * size.columns * 4 / 1e9, 3)
        gradients = (size.rows + size.columns) * width * 4 / 1e9
        if size.columns > 1_000_000:
            figures["passed"] = figures["extra_gb"] <= MEMORY_LIMIT_GB + gradients
    return figures
