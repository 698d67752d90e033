"""Count how often the host waits for the GPU in one training step, by line of code; needs no GPU.

    python benchmarks/gpu/synchronisations.py             # ZeRO-1, 8 chunks
    python benchmarks/gpu/synchronisations.py --config zero3 --chunks 16

A pretended GPU (`tests/pretended_gpu`) runs the real step with real DeepSpeed on one rank: a tiny XLM-R in
chunks of 4 texts. It records each download, each upload from pageable memory, and each operation whose result
has a size that only the device knows. The count does not depend on the size of the model or of a chunk.

While the host waits, the GPU gets no new kernels: a wait per chunk leaves it idle until the next kernels are
launched. The last line is `N per step, M per chunk`: N with the given number of chunks, M from a step with
twice as many. Needs the CPU build of torch and a C++ compiler.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hbt_dist.training.deepspeed.engine import Engine
    from hbt_dist.training.deepspeed.settings import Precision
    from tests.contrastive.tiny import Case

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

CHUNK_ROWS = 4


def measure(
    config: str | int | None = "zero1", chunks: int = 8, precision: Precision = "fp32", **loss: Any
) -> dict[str, Any]:
    """Return synchronisations per step and per chunk, and a line for each of their causes.

    Args:
        config: name from deepspeed_configs/, a ZeRO stage, or None for plain PyTorch.
        chunks: of the step, an even number.
        precision: as in the run file.
        loss: settings of the loss.
    """
    from hbt_dist.contrastive.world import World
    from hbt_dist.training.deepspeed.engine import build_engine
    from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
    from hbt_dist.training.settings import OptimizerSettings
    from tests.contrastive.tiny import Case, build_encoder
    from tests.pretended_gpu.tensors import RECORDER

    case = Case(model="packed", step={"chunk_rows": CHUNK_ROWS}, loss=loss)
    engine = build_engine(
        build_encoder(case).to("cuda:0"),
        optimizer=OptimizerSettings(),
        total_steps=10,
        world=World.alone("cuda:0"),
        deepspeed=resolve_deepspeed(DeepSpeedSettings(config=config, precision=precision)),
        loss=case.loss_settings,
    )
    engine.train()
    for step in range(2):  # DeepSpeed's clock starts with the third
        _make_step(engine, case, step, 2)
    _make_step(engine, case, 2, chunks)
    lines, per_step = RECORDER.lines(), len(RECORDER.synchronisations)
    _make_step(engine, case, 3, 2 * chunks)
    per_chunk = (len(RECORDER.synchronisations) - per_step) / chunks
    return {"per_step": per_step, "per_chunk": per_chunk, "lines": lines}


def _make_step(engine: Engine, case: Case, step: int, chunks: int) -> None:
    """Make a step of a number of chunks, and record its events alone."""
    import torch

    from hbt_dist.contrastive.step import contrastive_step
    from tests.contrastive.tiny import locals_of
    from tests.pretended_gpu.tensors import RECORDER

    local = locals_of(case.but(num_rows=chunks // 2 * CHUNK_ROWS), 1, step)[0]
    torch.manual_seed(step)
    RECORDER.clear()
    result = contrastive_step(engine, local, case.loss_settings, case.step_settings, engine.world)
    engine.step(step)
    if result.num_chunks != chunks:
        raise ValueError(f"expected {chunks} chunks, got {result.num_chunks}")


def main() -> None:
    """Print the causes, then the two numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="zero1", help="name from deepspeed_configs/")
    parser.add_argument("--chunks", type=int, default=8, help="of a step, an even number")
    chosen = parser.parse_args()
    from tests.pretended_gpu import install

    install()
    result = measure(chosen.config, chosen.chunks)
    print(*result["lines"], sep="\n")
    print(f"{result['per_step']} per step, {result['per_chunk']:g} per chunk")


if __name__ == "__main__":
    main()
