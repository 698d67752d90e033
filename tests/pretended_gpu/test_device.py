"""The pretended GPU keeps CUDA's rules: what it refuses, what the host waits for, whose parameters move."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pretended_gpu import call, load_guard, rules, steps, why_not

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_rules() -> None:
    result: dict[str, Any] = call(rules.rules)
    assert result["refused"] == {
        "sum of both devices": "RuntimeError",
        "cat of both devices": "RuntimeError",
        "stack of a number of the host": "RuntimeError",
        "values of the host at indices": "RuntimeError",
        "numpy": "TypeError",
        "generator of the host": "RuntimeError",
        "pinning": "RuntimeError",
    }
    assert result["waits"] == {
        "float": ["item"],
        "if": ["item"],
        "tolist": ["tolist"],
        "cpu": ["download"],
        "tensor": ["pageable upload"],
        "pageable": ["pageable upload"],
        "pinned": ["pinned upload, no wait"],
        "pinned, blocking": ["pinned upload"],
        "into pinned": ["download, no wait"],
        "into pageable": ["download"],
        "mask": ["mask as index"],
        "nonzero": ["nonzero"],
        "unique": ["_unique2"],
        "index of the host": ["upload of an index"],
        "index of the GPU": [],
        "number of the host": [],
        "set an item": ["pageable upload"],
        "set a slice": [],
        "zeros": [],
        "synchronize": ["synchronize"],
        "inference mode": ["download"],
    }
    assert result["parameters"] == {
        "same object": True,
        "devices": ["cuda:0", "cuda:0", "cuda:0", "cpu"],
        "changed": True,
        "equal": True,
        "autocast": "torch.bfloat16",
        "parameters": True,
        "back": [True, "cpu", "Parameter"],
    }
    assert result["random"] == [True, True]


def test_an_error_comes_with_the_output_of_its_process() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'no such variant'"):
        call(steps.variants, names=["no such variant"])


def test_the_guard_must_come_before_torch() -> None:
    import torch

    assert not torch.cuda.is_available()
    with pytest.raises(RuntimeError, match="before `import torch`"):
        load_guard()
