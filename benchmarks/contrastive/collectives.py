"""Count every collective of a step and its bytes, DeepSpeed's own included.

    python benchmarks/contrastive/collectives.py --out benchmarks/results/collectives.json

Every c10d operator is counted as PyTorch dispatches it, in one contrastive step and one optimizer step.
The first step, in which DeepSpeed sets things up, is not counted. Bytes are those of the full tensor; a ring
moves (W - 1) / W of them per rank for an all-gather or a reduce-scatter, twice that for an all-reduce. Under
ZeRO-3 no parameter is kept on every rank (persistence threshold 0), so that its gathers are seen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.contrastive.ranks import run
from benchmarks.gpu.model import batch_of
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.settings import OptimizerSettings

WIDTH = 32


class Counting(TorchDispatchMode):
    """Counts c10d operators and the bytes of their largest tensor argument, or list of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.num_bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.split("::")[1].strip("_").removesuffix("_base").replace("_", "")
            self.calls[name] += 1
            self.num_bytes[name] += max((_num_bytes(argument) for argument in args), default=0)
        return func(*args, **(kwargs or {}))


def _num_bytes(argument: Any) -> int:
    if isinstance(argument, torch.Tensor):
        return argument.numel() * argument.element_size()
    return sum(_num_bytes(part) for part in argument) if isinstance(argument, (list, tuple)) else 0


class Encoder(torch.nn.Module):
    """Two matrices; enough for collectives to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = torch.nn.Embedding(500, 64)
        self.out = torch.nn.Linear(64, WIDTH)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(n, T) -> (n, D)."""
        return self.out((self.tokens(input_ids) * attention_mask[..., None]).mean(1))


def count(world: World, case: dict[str, Any]) -> dict[str, Any]:
    """Collectives of the second step of one case."""
    torch.manual_seed(0)
    config: Any = case["stage"]
    if config == 3:
        zero = {"stage": 3, "stage3_param_persistence_threshold": 0}
        config = {"gradient_clipping": 1.0, "zero_optimization": zero}
    engine = build_engine(
        Encoder(),
        optimizer=OptimizerSettings(gradient_clipping=1.0),
        total_steps=4,
        world=world,
        deepspeed=resolve_deepspeed(DeepSpeedSettings(config=config), device_type="cpu"),
        grad_reduction=case["reduction"],
    )
    local = batch_of(16, 500, (8, 8), num_negatives=1)
    local.rank, local.world_size = world.rank, world.size
    local.passage_group_N = torch.arange(32 * world.size).numpy()
    loss = LossSettings(directions=case["directions"])
    step = StepSettings(mode="cached", chunk_rows=case["chunk_rows"])
    contrastive_step(engine, local, loss, step, world)
    engine.step(0)
    with Counting() as step_counts:
        result = contrastive_step(engine, local, loss, step, world)
    with Counting() as optimizer_counts:
        engine.step(1)

    def table(counts: Counting) -> dict[str, list[int]]:
        return {name: [counts.calls[name], counts.num_bytes[name]] for name in sorted(counts.calls)}

    return {
        **case,
        "world_size": world.size,
        "num_chunks": result.num_chunks,
        "parameters": sum(int(getattr(p, "ds_numel", p.numel())) for p in engine.model.parameters()),
        "embeddings_and_scalars": result.traffic,
        "contrastive_step": table(step_counts),
        "optimizer_step": table(optimizer_counts),
    }


def count_all(world: World, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All cases in one start of the processes."""
    return [count(world, case) for case in cases]


def ways() -> list[dict[str, Any]]:
    """Return every ZeRO stage and way of reduction, with few and many chunks, one direction and both."""
    engines: list[tuple[Any, str]] = [(None, "auto"), (0, "boundary")]
    engines += [(stage, reduction) for stage in (1, 2, 3) for reduction in ("coalesce", "boundary")]
    return [
        {"stage": stage, "reduction": reduction, "directions": directions, "chunk_rows": chunk_rows}
        for stage, reduction in engines
        for directions, chunk_rows in (("question_to_passage", 16), ("question_to_passage", 4), ("both", 4))
    ]


def main() -> None:
    """Count all cases for 2 and 4 ranks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    found = [result for world_size in chosen.ranks for result in run(world_size, count_all, ways())[0]]
    for result in found:
        print(json.dumps(result))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
