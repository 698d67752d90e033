"""Ask a GPU for its ceilings, and torch for the kernels that it takes. Needs nothing but torch.

The measured ceilings replace the assumed rates of `benchmarks.gpu.rates`: `roofline.py --rates gpu.json`.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.device import Context, Device
from benchmarks.gpu.rates import Rates
from benchmarks.gpu.report import Figures
from hbt_dist.common.precision import products

#: In torch's library if attention with dropout of less than 1/16 is computed by cuDNN or refused.
DROPOUT_CHECK = b"dropout probability resolution"
PREDICTED = {
    "bf16 8192^3": "790 TFLOP/s on an H200",
    "bf16 65536 x 768 x 3072": "600 to 700 TFLOP/s",
    "cuDNN's plan": "0.3 to 0.5 s for every new shape",
}


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield the attention kernels, then the ceilings, then all rates together."""
    device = context.device
    yield "library", {"holds the check of attention dropout": has_dropout_check()}
    yield "attention", attention_kernels(device, context.tiny)
    for name, backend in (("flash", SDPBackend.FLASH_ATTENTION), ("cuDNN", SDPBackend.CUDNN_ATTENTION)):
        yield f"first calls, {name}", first_calls(device, context.tiny, backend)
    rates: dict[str, float] = {}
    assumed = asdict(Rates())
    for name, measure in CEILINGS.items():
        value = measure(device, context.tiny)
        rates[name] = value
        yield name, {"measured": value, "predicted": assumed[name]}
    yield "rates", {"all": rates}


def has_dropout_check() -> bool | None:
    """Return whether torch's CUDA library checks the resolution of attention dropout; None: no library."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
    if not library.is_file():
        return None
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return text.find(DROPOUT_CHECK) >= 0


def heads(device: Device, rows: int, tokens: int, *, graph: bool = False) -> list[Tensor]:
    """Return query, key and value of 12 heads of 64."""
    return [
        torch.randn(rows, 12, tokens, 64, device=device.torch, dtype=torch.bfloat16).requires_grad_(graph)
        for _ in range(3)
    ]


def attention_kernels(device: Device, tiny: bool) -> Figures:
    """Return the kernel that torch chooses, by mask, dropout and graph."""
    rows, tokens = (2, 16) if tiny else (64, 192)
    names = {int(backend): name for name, backend in SDPBackend.__members__.items()}
    chosen = {}
    for graph in (False, True):
        query, key, value = heads(device, rows, tokens, graph=graph)
        for masked in (False, True):
            mask = torch.ones(rows, 1, 1, tokens, dtype=torch.bool, device=device.torch) if masked else None
            mask = None if mask is None else mask.expand(rows, 12, tokens, tokens)
            for dropout in (0.0, 0.1):
                label = (
                    f"{'mask' if masked else 'none'}, dropout {dropout}, {'graph' if graph else 'no graph'}"
                )
                number = int(torch._fused_sdp_choice(query, key, value, mask, dropout))
                chosen[label] = names.get(number, str(number))
    return {
        "chosen": chosen,
        "predicted": "cuDNN first on Hopper from torch 2.11 on, memory-efficient with masks",
    }


def first_calls(device: Device, tiny: bool, backend: SDPBackend) -> Figures:
    """Return the seconds of the first and the second call of a new shape, forward and backward."""
    seconds: dict[str, list[float]] = {}
    for rows, tokens in ((3, 16),) if tiny else ((337, 176), (341, 192)):
        times = []
        for _ in range(2):
            query, key, value = heads(device, rows, tokens, graph=True)
            device.sync()
            began = time.perf_counter()
            try:
                with sdpa_kernel(backend):
                    F.scaled_dot_product_attention(query, key, value).sum().backward()
            except RuntimeError as error:
                return {"skipped": str(error)[:200]}
            device.sync()
            times.append(round(time.perf_counter() - began, 5))
        seconds[f"{rows} x {tokens}"] = times
    return {"first, second": seconds, "predicted": PREDICTED["cuDNN's plan"]}


def product_rate(device: Device, shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    """Return FLOP/s of a product of (m, k) and (k, n)."""
    m, k, n = shape
    left, right = (torch.randn(size, device=device.torch, dtype=dtype) for size in ((m, k), (k, n)))
    return 2.0 * m * k * n / device.seconds(lambda: left @ right)


def bf16_rate(device: Device, tiny: bool) -> float:
    """Return the rate of the encoder's largest products: (65536, 768) x (768, 3072)."""
    return product_rate(device, (64, 16, 64) if tiny else (65_536, 768, 3072), torch.bfloat16)


def float32_rate(device: Device, tiny: bool, precision: str) -> float:
    """Return the rate of the loss's products: (1024, 768) x (768, 32768)."""
    with products("tf32" if precision == "tf32" else "ieee"):
        return product_rate(device, (16, 16, 64) if tiny else (1024, 768, 32_768), torch.float32)


def attention_rates(device: Device, tiny: bool, *, masked: bool) -> tuple[float, float]:
    """Return FLOP/s of attention, forward and backward, at the shape of a chunk of passages."""
    rows, tokens = (2, 16) if tiny else (341, 192)
    query, key, value = heads(device, rows, tokens, graph=True)
    mask = torch.ones(rows, 1, 1, tokens, dtype=torch.bool, device=device.torch) if masked else None

    def forward() -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=0.1)

    gradient = torch.randn_like(query)
    alone = device.seconds(forward)
    both = device.seconds(lambda: forward().backward(gradient))
    flops = 4.0 * rows * 12 * tokens * tokens * 64
    return flops / alone, 2.5 * flops / max(both - alone, 1e-9)


def memory_rate(device: Device, tiny: bool) -> float:
    """Return bytes per second, read and written, of a copy of 2 GB."""
    source = torch.empty(1 << (10 if tiny else 29), device=device.torch)
    target = torch.empty_like(source)
    return 2.0 * source.numel() * 4 / device.seconds(lambda: target.copy_(source))


def host_seconds(device: Device, tiny: bool) -> float:
    """Return what launching a kernel takes the host, without waiting for it."""
    x, count = torch.zeros(1, device=device.torch), 100 if tiny else 1000
    device.sync()
    began = time.perf_counter()
    for _ in range(count):
        x.add_(1)
    seconds = (time.perf_counter() - began) / count
    device.sync()
    return seconds


#: Measurements by the name of the rate in `Rates`.
CEILINGS: dict[str, Callable[[Device, bool], float]] = {
    "bf16_products": bf16_rate,
    "fp32_products": lambda device, tiny: float32_rate(device, tiny, "ieee"),
    "tf32_products": lambda device, tiny: float32_rate(device, tiny, "tf32"),
    "attention_forward": lambda device, tiny: attention_rates(device, tiny, masked=False)[0],
    "attention_backward": lambda device, tiny: attention_rates(device, tiny, masked=False)[1],
    "masked_attention_forward": lambda device, tiny: attention_rates(device, tiny, masked=True)[0],
    "masked_attention_backward": lambda device, tiny: attention_rates(device, tiny, masked=True)[1],
    "bytes_per_second": memory_rate,
    "host_seconds": host_seconds,
}
