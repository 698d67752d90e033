"""Full memory in the words of every library: explained in training, and a smaller chunk in the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from hbt_dist.common.device_memory import is_out_of_memory
from hbt_dist.common.errors import OneRankError, UserError
from hbt_dist.contrastive.world import World
from hbt_dist.training.chunk_size import find_chunk_rows, kept_tokens
from hbt_dist.training.ranks import full_memory_explained

ALONE = World.alone()
NCCL = """NCCL error in: ProcessGroupNCCL.cpp:3699, unhandled cuda error, NCCL version 2.28.9
ncclUnhandledCudaError: Call to CUDA function failed.
Last error:
"""
FULL: dict[str, tuple[RuntimeError, str]] = {
    "torch": (
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.80 GiB."
        ),
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ),
    "driver": (RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA."), "out of memory"),
    "cublas": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "CUBLAS_STATUS_ALLOC_FAILED when calling",
    ),
    "cudnn": (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
    "nccl": (dist.DistBackendError(NCCL + "Cuda failure 2 'out of memory'"), "failure 2 'out of memory'"),
    "buffers of nccl": (
        dist.DistBackendError(NCCL + "Failed to CUDA calloc async 608 bytes"),
        "Failed to CUDA calloc async 608 bytes",
    ),
}
GRID = RuntimeError("CUDA error: invalid configuration argument\nCompile with TORCH_USE_CUDA_DSA.")
NOT_FULL = {
    "grid": GRID,
    "peer": dist.DistBackendError(NCCL + "socketProgress: Connection closed by remote peer"),
    "kernel": RuntimeError("CUDA error: device-side assert triggered"),
    "other type": ValueError("out of memory"),
}


@pytest.mark.parametrize("name", FULL)
def test_full_memory_is_explained(name: str) -> None:
    error, quoted = FULL[name]
    with pytest.raises(OneRankError, match="rank 0 on ") as explained, full_memory_explained(ALONE, 512):
        raise error
    assert explained.value.problem.startswith("the memory of cpu is full: ")
    assert quoted in explained.value.problem
    assert "lower step.chunk_rows (512 now" in explained.value.remedy


@pytest.mark.parametrize("name", NOT_FULL)
def test_other_errors_keep_their_words(name: str) -> None:
    assert not is_out_of_memory(NOT_FULL[name])
    with pytest.raises(type(NOT_FULL[name])) as raised, full_memory_explained(ALONE, 512):
        raise NOT_FULL[name]
    assert raised.value is NOT_FULL[name]


class LimitedEncoder(torch.nn.Module):
    """An encoder that fails above so many rows, and records the rows of every trial."""

    def __init__(self, rows: int, error: Exception) -> None:
        super().__init__()
        self.rows, self.error, self.trials = rows, error, list[int]()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        self.trials.append(len(input_ids))
        self.how: Any = (self.training, torch.is_autocast_enabled("cpu"))
        if len(input_ids) > self.rows:
            raise self.error
        return input_ids * self.weight


@pytest.mark.parametrize(
    ("rows", "most", "expected"), [(10, 64, 8), (64, 64, 64), (1, 64, 1), (100, 24, 24), (23, 24, 16)]
)
def test_the_largest_chunk_that_fits(rows: int, most: int, expected: int) -> None:
    encoder = LimitedEncoder(rows, FULL["torch"][0])
    assert find_chunk_rows(encoder, max_tokens=4, most_rows=most, world=ALONE, reserve_bytes=10) == expected
    assert encoder.weight.grad is None


@pytest.mark.parametrize("error", [*(error for error, _ in FULL.values()), GRID])
def test_every_way_of_not_fitting_halves_the_rows(error: Exception) -> None:
    encoder = LimitedEncoder(10, error)
    assert find_chunk_rows(encoder, max_tokens=4, most_rows=50, world=ALONE) == 8
    assert encoder.trials == [50, 32, 16, 8]


def test_any_other_error_ends_the_search() -> None:
    encoder = LimitedEncoder(10, NOT_FULL["kernel"])
    with pytest.raises(RuntimeError, match="device-side assert"):
        find_chunk_rows(encoder, max_tokens=4, most_rows=50, world=ALONE)
    assert encoder.trials == [50]
    assert encoder.training


@pytest.mark.parametrize("autocast", [False, True])
def test_chunks_are_tried_as_they_are_trained(autocast: bool) -> None:
    encoder = LimitedEncoder(8, GRID).eval()
    find_chunk_rows(encoder, max_tokens=4, most_rows=8, world=ALONE, autocast=autocast)
    assert encoder.how == (True, autocast)
    assert not encoder.training


def test_no_room_for_one_row_is_a_refusal() -> None:
    encoder = LimitedEncoder(0, FULL["torch"][0])
    with pytest.raises(UserError, match="auto does not fit one text of 4 tokens"):
        find_chunk_rows(encoder, max_tokens=4, most_rows=8, world=ALONE)
    assert encoder.trials == [8, 4, 2, 1]


def test_trials_leave_no_memory_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL would find none: it asks the device, not torch."""
    emptied: list[int] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    encoder = LimitedEncoder(8, GRID)
    find_chunk_rows(encoder, max_tokens=4, most_rows=8, world=ALONE)
    assert not emptied
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    find_chunk_rows(encoder, max_tokens=4, most_rows=8, world=ALONE)
    assert emptied


@pytest.mark.parametrize(
    ("free", "bytes_per_token", "want"),
    [(100e9, 1e6, 24_464), (1e9, 1e6, 0), (-5.0, 1e6, 0), (100e9, 0.0, 0)],
)
def test_graphs_are_kept_in_what_is_free_beside_a_chunk(
    free: float, bytes_per_token: float, want: int
) -> None:
    assert kept_tokens(free, bytes_per_token, chunk_tokens=65_536) == want
