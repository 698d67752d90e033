"""The precision of products is pinned from every state of the process, and the state comes back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers.utils import enable_tf32

from hbt_dist.common import precision
from hbt_dist.common.precision import products

cuda: Any = torch.backends.cuda.matmul
mkldnn: Any = getattr(torch.backends.mkldnn, "matmul", None)
NEW = pytest.mark.skipif(not hasattr(cuda, "fp32_precision"), reason="torch < 2.9 has one flag only")


def set_matmul(value: str) -> None:
    cuda.fp32_precision = value


def set_all(value: str) -> None:
    torch.backends.fp32_precision = value


STATES = {
    "default": lambda: None,
    "tf32 for products": lambda: set_matmul("tf32"),
    "tf32 for all": lambda: set_all("tf32"),
    "ieee for products": lambda: set_matmul("ieee"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "old flag": lambda: setattr(cuda, "allow_tf32", True),
    "transformers": lambda: enable_tf32(True),
}


def read(getter: object) -> object:
    """A setting, or that reading it is an error."""
    try:
        return getter() if callable(getter) else getter
    except RuntimeError:
        return "error"


def state() -> list[object]:
    """All that a reader can see: effective and old values."""
    return [
        cuda.fp32_precision,
        mkldnn.fp32_precision,
        torch.backends.fp32_precision,
        torch.backends.cudnn.fp32_precision,
        read(torch.get_float32_matmul_precision),
        read(lambda: cuda.allow_tf32),
        read(lambda: torch.backends.cudnn.allow_tf32),
    ]


@pytest.fixture(params=STATES)
def start(request: pytest.FixtureRequest) -> Iterator[str]:
    before = state()
    enable_tf32.cache_clear()
    STATES[request.param]()
    yield request.param
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    cuda.fp32_precision = mkldnn.fp32_precision = "none"
    assert state() == before


@NEW
@pytest.mark.parametrize("wanted", ["ieee", "tf32"])
def test_precision_is_pinned_and_restored(start: str, wanted: precision.Precision) -> None:
    before = state()
    with products(wanted):
        assert (cuda.fp32_precision, mkldnn.fp32_precision) == (wanted, "ieee")
        with products("ieee"):
            assert cuda.fp32_precision == "ieee"
        assert cuda.fp32_precision == wanted
    assert state() == before
    with pytest.raises(ZeroDivisionError), products(wanted):
        raise ZeroDivisionError
    assert state() == before


@NEW
def test_an_inherited_setting_is_inherited_afterwards(start: str) -> None:
    inherits = start in ("default", "tf32 for all", "transformers")
    with products("ieee"):
        pass
    before = cuda.fp32_precision
    set_all("ieee" if before == "tf32" else "tf32")
    assert (cuda.fp32_precision != before) == inherits


@NEW
def test_reading_the_old_flag_is_an_error_in_some_states(start: str) -> None:
    """Why the new interface is used: `exact_products` once read this flag."""
    mixed = {"tf32 for products", "tf32 for all", "transformers"}
    assert (read(lambda: cuda.allow_tf32) == "error") == (start in mixed)


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
def test_torch_without_the_new_interface(before: str) -> None:
    torch.set_float32_matmul_precision(before)
    try:
        for value in ("highest", "high"):
            with precision._old_setting(value):
                assert torch.get_float32_matmul_precision() == value
                assert cuda.allow_tf32 == (value == "high")
            assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        if hasattr(cuda, "fp32_precision"):
            cuda.fp32_precision = mkldnn.fp32_precision = "none"


def test_an_override_that_nothing_undoes_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    precision._warn_of_override.cache_clear()
    try:
        with pytest.warns(UserWarning, match="NVIDIA_TF32_OVERRIDE=1"), products("ieee"):
            pass
        with products("ieee"), products("tf32"):  # a second warning would be an error in the tests
            pass
    finally:
        precision._warn_of_override.cache_clear()
