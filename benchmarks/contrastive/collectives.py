"""Count every collective of a step and its bytes, DeepSpeed's own included.

    python benchmarks/contrastive/collectives.py --out benchmarks/results/collectives.json

All functions of torch.distributed that move tensors are wrapped and counted in one contrastive step and
one optimizer step. The first step, in which DeepSpeed sets things up, is not counted. Bytes are those of the
full tensor; a ring moves (W - 1) / W of them per rank for an all-gather or a reduce-scatter, twice that for an
all-reduce.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.contrastive.ranks import run
from benchmarks.gpu.check import batch_of
from hbt_dist.contrastive.config import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed_config import DeepSpeedSettings
from hbt_dist.training.engine import build_engine
from hbt_dist.training.optimizer import OptimizerSettings

COUNTED = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_single",
    "all_gather_coalesced",
    "all_reduce",
    "all_to_all_single",
    "broadcast",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
)
WIDTH = 32


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
    engine = build_engine(
        Encoder(),
        optimizer=OptimizerSettings(gradient_clipping=1.0),
        total_steps=4,
        world=world,
        deepspeed=DeepSpeedSettings(config=case["stage"]),
        grad_reduction=case["reduction"],
    )
    local = batch_of(16, 500, (8, 8), num_negatives=1)
    local.rank, local.world_size = world.rank, world.size
    local.passage_group_N = torch.arange(32 * world.size).numpy()
    loss = LossSettings(directions=case["directions"])
    step = StepSettings(mode="cached", chunk_rows=case["chunk_rows"])
    calls: Counter[str] = Counter()
    size: Counter[str] = Counter()
    originals = {name: getattr(dist, name) for name in COUNTED if hasattr(dist, name)}

    def counted(name: str, *arguments: Any, **keywords: Any) -> Any:
        tensors = [t for t in [*arguments, *keywords.values()] if isinstance(t, torch.Tensor)]
        calls[name] += 1
        size[name] += max((t.numel() * t.element_size() for t in tensors), default=0)
        return originals[name](*arguments, **keywords)

    contrastive_step(engine, local, loss, step, world)
    engine.step(0)
    for name in originals:
        setattr(dist, name, functools.partial(counted, name))
    try:
        result = contrastive_step(engine, local, loss, step, world)
        during_step = sum(calls.values())
        engine.step(1)
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
    # The world's own gather and scatter hold the functions themselves; they count by themselves.
    embedding = {name: value for name, value in result.traffic.items() if name != "all_reduce"}
    return {
        **case,
        "world_size": world.size,
        "num_chunks": result.num_chunks,
        "parameters": sum(int(getattr(p, "ds_numel", p.numel())) for p in engine.model.parameters()),
        "embedding": embedding,
        "model_and_scalars": {name: [calls[name], size[name]] for name in calls},
        "calls_in_step": during_step + sum(c for c, _ in embedding.values()),
        "calls_in_optimizer": sum(calls.values()) - during_step,
    }


def count_all(world: World, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All cases in one start of the processes."""
    return [count(world, case) for case in cases]


def main() -> None:
    """Count all cases for 2 and 4 ranks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    ways: list[tuple[Any, str]] = [(None, "auto"), (0, "boundary")]
    ways += [(stage, reduction) for stage in (1, 2, 3) for reduction in ("coalesce", "boundary")]
    cases = [
        {"stage": stage, "reduction": reduction, "directions": directions, "chunk_rows": chunk_rows}
        for stage, reduction in ways
        for directions in ("question_to_passage", "both")
        for chunk_rows in (16, 4)
    ]
    found = [result for world_size in (2, 4) for result in run(world_size, count_all, cases)[0]]
    for result in found:
        print(json.dumps(result))
    if chosen.out:
        chosen.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
