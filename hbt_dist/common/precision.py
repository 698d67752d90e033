"""Pin the precision of float32 matrix products, from any state of the process.

torch has two interfaces. Reading the old flag raises an error after the process has used the new one, as
transformers' `enable_tf32` does. This module uses the new one where torch has it (from 2.9 on); torch's
kernels read the same setting. TF32 keeps 10 of the 23 bits of each factor.

The setting is one of the process, not of a thread: threads that multiply meanwhile get it too.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Literal

import torch

Precision = Literal["ieee", "tf32"]

_OVERRIDE = "NVIDIA_TF32_OVERRIDE"


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """Run float32 matrix products inside the block in one precision, and restore the setting afterwards.

    CPUs always multiply in full float32 inside the block, also where the process allows less.

    Args:
        precision: of products on GPUs. ieee: full float32; tf32: factors of 10 bits, on GPUs that can.
    """
    if precision == "ieee":
        _warn_of_override()
    backends: Any = torch.backends  # mypy does not know `mkldnn.matmul`
    with ExitStack() as stack:
        if hasattr(backends.cuda.matmul, "fp32_precision"):
            stack.enter_context(_setting(backends.cuda.matmul, precision))
            stack.enter_context(_setting(backends.mkldnn.matmul, "ieee"))
        else:
            stack.enter_context(_old_setting("highest" if precision == "ieee" else "high"))
        yield


@contextmanager
def _setting(matmul: Any, precision: Precision) -> Iterator[None]:
    before = matmul.fp32_precision
    # A setting that equals the one it would inherit is taken for inherited: later changes above reach it.
    matmul.fp32_precision = "none"
    before = "none" if matmul.fp32_precision == before else before
    matmul.fp32_precision = precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextmanager
def _old_setting(precision: Literal["highest", "high"]) -> Iterator[None]:
    """Set it in torch below 2.9, where one value holds for GPUs and CPUs and is the old flag as well."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def _warn_of_override() -> None:
    """Warn once of the variable that no setting of torch undoes."""
    if os.environ.get(_OVERRIDE) == "1":
        warnings.warn(
            f"{_OVERRIDE}=1 makes GPUs round the factors of float32 products to 10 bits: scores and "
            "ranks differ from those of other machines. Unset it",
            stacklevel=2,
        )
