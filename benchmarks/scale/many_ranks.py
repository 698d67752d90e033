"""Count the collectives of a step of 8, 64 and 512 ranks in one process, and compare them with the model.

    python benchmarks/scale/many_ranks.py --output benchmarks/results/collectives_many_ranks.json

The real step and the real engine run as rank 0 of torch's ``fake`` process group, whose collectives return at
once; what they would have moved is counted as PyTorch dispatches it (`benchmarks.contrastive.collectives`).
`collectives.json` holds the same counts of 2 and 4 real ranks. The last line states the number of cases whose
counts and bytes are exactly the model's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import FakeProcessGroup
from torch.testing._internal.distributed.fake_pg import FakeStore

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.contrastive.collectives import WIDTH, count, ways
from benchmarks.scale.model import Traffic, Workload, optimizer_traffic, padded_parameters, step_traffic
from hbt_dist.contrastive.world import World

WORLDS = (8, 64, 512)
#: Tensors of the counted encoder: a table and a matrix, which decay, and a bias, which does not.
DECAYED, PLAIN = (500 * 64, 64 * WIDTH), (WIDTH,)


def fake_options() -> Any | None:
    """Return the options of a fake group, whose time limit DeepSpeed's groups take; None in older torch."""
    try:
        return FakeProcessGroup.Options()
    except TypeError:
        return None


def count_as_rank_0(world_size: int, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count every case as rank 0 of a fake process group. Call it in a process without a group."""
    options = fake_options()
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore(), pg_options=options)
    world = World.of_process_group()
    return [count(world, case) for case in cases]


def modelled(case: dict[str, Any]) -> dict[str, dict[str, list[int]]]:
    """Return what the formulas of the scale model give for a counted case."""
    load = Workload(
        rows=16,
        negatives=1,
        stage=case["stage"],
        reduction=case["reduction"],
        both_directions=case["directions"] == "both",
    )
    world, stage = case["world_size"], case["stage"]
    padded = padded_parameters([DECAYED, PLAIN], world, stage)
    in_step = padded if stage == 3 else case["parameters"]
    # 4 gathers per chunk, three passes over a model of two modules
    step = step_traffic(load, WIDTH, in_step, world, 4, case["num_chunks"])
    return {"contrastive_step": summed(step), "optimizer_step": summed(optimizer_traffic(stage, padded))}


def summed(traffic: list[Traffic]) -> dict[str, list[int]]:
    """Return calls and bytes by kind of collective, in the names of the counts."""
    counts: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for entry in traffic:
        counts[entry.kind.replace("_", "")] += entry.count
        num_bytes[entry.kind.replace("_", "")] += int(entry.num_bytes)
    return {kind: [counts[kind], num_bytes[kind]] for kind in counts}


def differences(case: dict[str, Any]) -> list[str]:
    """Return how the counts of a case differ from the model's; empty if they are equal."""
    return [
        f"{case['world_size']} ranks, stage {case['stage']}, {part}: counted {case[part]}, modelled {model}"
        for part, model in modelled(case).items()
        if case[part] != model
    ]


def main() -> None:
    """Count, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", nargs="+", type=int, default=list(WORLDS))
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    counted = []
    for world_size in given.ranks:  # DeepSpeed keeps the groups of a process until it ends
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            counted += pool.apply(count_as_rank_0, (world_size, ways()))
    wrong = [line for case in counted for line in differences(case)]
    print(*wrong, sep="\n")
    if given.output is not None:
        lines = ",\n".join(json.dumps(case) for case in counted)
        given.output.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(counted) - len(wrong)} of {len(counted)} cases are exactly the model's")


if __name__ == "__main__":
    main()
