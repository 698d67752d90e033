"""A training starts in seconds because it leaves slow libraries to those who need them."""

from __future__ import annotations

import subprocess
import sys

import pytest

_TRAINING = """
import sys
import hbt_dist.jobs.train, hbt_dist.orchestration.ray_runtime
print(*(name for name in ("matplotlib", "scipy", "pandas", "sklearn", "ray", "transformers", "deepspeed")
        if name in sys.modules))
"""
_DEEPSPEED = """
import sys
import torch
from hbt_dist.training.deepspeed.setup import load_deepspeed
compile = torch.compile
load_deepspeed()
import deepspeed.runtime.zero.stage_1_and_2
print(*(name for name in ("mlflow", "torch._inductor.compile_fx", "torch._dynamo") if name in sys.modules))
assert torch.compile is compile
"""


@pytest.mark.parametrize("program", [_TRAINING, pytest.param(_DEEPSPEED, marks=pytest.mark.slow)])
def test_a_training_imports_no_slow_library(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
