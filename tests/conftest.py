"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A busy machine is no reason to fail: no time limit for examples or for making them; all runs have the same.
settings.register_profile(
    "hbt-dist", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hbt-dist")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the public data sets (XQuAD-R, MLQA-R, ...), which are not part of this repository."""
    root = Path(os.environ.get("HBT_DIST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (root / "xquad-r" / "en.json").is_file():
        pytest.skip(f"no public data sets at {root}; set HBT_DIST_DATA to their folder")
    return root
