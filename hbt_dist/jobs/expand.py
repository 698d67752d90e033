"""Expand a benchmark's questions with a causal language model."""

from __future__ import annotations

from pathlib import Path

from hbt_dist.data.benchmarks.load import load
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.methods.expansion.expand import expand_benchmark
from hbt_dist.methods.expansion.generate import load_generator
from hbt_dist.methods.expansion.settings import ExpansionSettings


def expand_job(
    model: str,
    benchmark: BenchmarkSettings,
    output: Path,
    settings: ExpansionSettings,
    *,
    translations: Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the expansion file of a benchmark; continue an interrupted one.

    Args:
        model: folder or hub name of a causal language model.
        translations: see `hbt_dist.methods.expansion.files`.
        device: where the model runs: auto, cpu, cuda, ...

    Raises:
        UserError: model, benchmark, translations or file cannot be used.
    """
    data = load(benchmark)
    loaded = load_generator(model, dtype=settings.dtype, device=device, trust_remote_code=trust_remote_code)
    return expand_benchmark(loaded, data, output, settings, translations=translations, progress=not quiet)
