"""Read the precision of float32 products, with torch's new interface (2.9) or the old one."""

from __future__ import annotations

import torch


def precision_of_products() -> str:
    """``ieee``, ``tf32`` or, with the new interface, ``none`` for an unset one."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):
        return str(matmul.fp32_precision)
    return "tf32" if matmul.allow_tf32 else "ieee"
