"""Name the rates of one GPU from which times are predicted; measured rates replace them.

    rates = Rates.of_file(Path("gpu.json"))     # the probe of benchmarks/gpu/check.py

Nothing in H200 was measured by this project. Products: vendors' and users' figures for large bf16 matrices
are 600 to 790 TFLOP/s of the 989 of the data sheet; 600 is the cautious end.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

#: Dense peak of bf16 matrix products with float32 sums, FLOP/s, from the vendors' data sheets.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


@dataclass(frozen=True)
class Rates:
    """Assumed or measured rates: FLOP/s, bytes/s and seconds."""

    bf16_products: float = 600e12  # 8192^3 reaches 790e12 on an H200; 65536 x 768 x 3072 less
    fp32_products: float = 50e12  # of 67e12 on the data sheet
    tf32_products: float = 350e12  # of 495e12 on the data sheet
    attention_forward: float = 250e12  # flash, heads of 64, without a mask
    attention_backward: float = 200e12
    masked_attention_forward: float = 150e12  # memory-efficient kernel, with a mask
    masked_attention_backward: float = 110e12
    bytes_per_second: float = 3.9e12  # of 4.8e12 on the data sheet; a copy reaches 4.3e12
    kernel_seconds: float = 2.5e-6  # the least time of a kernel
    host_seconds: float = 7e-6  # launching a kernel from C++
    host_python: float = 2.2  # times the above with Python's modules around it
    peak_flops: float = PEAK_FLOPS["H200"]
    measured: tuple[str, ...] = ()  # names of the rates that were measured

    @classmethod
    def of_file(cls, file: Path) -> Rates:
        """Return the assumed rates, with those that the probe in a JSON of check.py measured."""
        document: dict[str, Any] = json.loads(file.read_text("utf-8"))
        return cls.of_measured(document.get("probe", {}).get("rates", {}).get("all", {}))

    @classmethod
    def of_measured(cls, measured: dict[str, float]) -> Rates:
        """Return the assumed rates, with the measured ones in their place.

        Raises:
            ValueError: a name that is not a rate.
        """
        unknown = measured.keys() - {field.name for field in fields(cls)} | measured.keys() & {"measured"}
        if unknown:
            raise ValueError(f"expected names of rates, got {', '.join(sorted(unknown))}")
        return replace(cls(), **measured, measured=tuple(sorted(measured)))


def peak_flops_of(device: str) -> float | None:
    """Return the dense bf16 peak of a device by its name; None if the name is unknown."""
    return next((flops for name, flops in PEAK_FLOPS.items() if name in device), None)
