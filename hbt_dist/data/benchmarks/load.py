"""Load benchmarks as a run file names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hbt_dist.data.settings import BenchmarkSettings


def check_benchmarks(benchmarks: Sequence[BenchmarkSettings]) -> dict[str, str]:
    """Read the benchmarks before hours of training rather than after.

    Returns:
        label -> fingerprint of each.

    Raises:
        UserError: one cannot be read.
    """
    return {benchmark.label: str(load(benchmark).fingerprint) for benchmark in benchmarks}


def load(benchmark: BenchmarkSettings, cache_dir: str | None = None) -> Any:
    """Read a benchmark as the run file names it.

    Args:
        cache_dir: where a large one is kept converted, see `load_benchmark`.
    """
    from hbt_dist.data.benchmarks.benchmark import load_benchmark

    return load_benchmark(
        benchmark.name,
        benchmark.data_dir,
        variant=benchmark.variant,
        languages=benchmark.languages,
        cache_dir=cache_dir,
    )
