"""Run the self-check with every shipped DeepSpeed configuration, on one rank with NCCL."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.gpu.device import Context
from benchmarks.gpu.report import Figures
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed, shipped_configs
from hbt_dist.training.self_check import self_check


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield the error of every configuration; all are predicted to pass; the import takes 10 s."""
    for config in shipped_configs():
        began = time.monotonic()
        if (reason := context.clock.too_long(2)) is not None:
            yield config, {"skipped": reason}
            continue
        try:
            settings = DeepSpeedSettings(config=config)
            check = self_check(
                World.alone(context.device.torch), resolve_deepspeed(settings, gradient_clipping=1.0)
            )
            figures: Figures = {
                "error": check.gradient_error,
                "limit": check.tolerance,
                "passed": check.passed,
                "engine": check.engine,
            }
        except Exception as error:
            figures = {"passed": False, "error_message": f"{type(error).__name__}: {error}"[:300]}
        yield config, {**figures, "seconds": round(time.monotonic() - began, 2)}
