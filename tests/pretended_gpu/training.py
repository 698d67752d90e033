"""DeepSpeed, the self-check, the search of the chunk size and a whole run on the pretended GPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from hbt_dist.cli.main import main
from hbt_dist.contrastive.chunks import FREE_PADDING
from hbt_dist.contrastive.world import World
from hbt_dist.training.chunk_size import find_chunk_rows
from hbt_dist.training.deepspeed.settings import (
    DeepSpeedSettings,
    Precision,
    ResolvedDeepSpeed,
    resolve_deepspeed,
)
from hbt_dist.training.self_check import SelfCheck, self_check
from tests.contrastive.tiny import Case, build_encoder
from tests.pretended_gpu.steps import build, make_steps, steps_on
from tests.training.bodies import run_case

GPU = "cuda:0"


def self_checks() -> dict[str, Any]:
    """The self-check of plain PyTorch."""
    return {
        precision: _facts(self_check(World.alone(GPU), ResolvedDeepSpeed(precision=precision)))
        for precision in get_args(Precision)
    }


def _facts(check: SelfCheck) -> dict[str, Any]:
    return {"passed": check.passed, "error": check.gradient_error, "engine": check.engine}


def shipped_files(names: list[str]) -> dict[str, Any]:
    """The self-check with each shipped file, and the loss of three steps relative to the CPU's in float32."""
    case = Case(num_rows=8, loss={"mask_false_negatives": False})
    world = _world()
    exact = steps_on("cpu", case.but(stage=None)).losses if world.size == 1 else []
    result = {}
    for name in names:
        resolved = resolve_deepspeed(DeepSpeedSettings(config=name), gradient_clipping=1.0)
        check = self_check(world, resolved)
        steps = make_steps(case, build(case, world, resolved), world)
        errors = [abs(loss / want - 1) for loss, want in zip(steps.losses, exact, strict=False)]
        result[name] = {**_facts(check), "losses": steps.losses, "loss_error": max(errors, default=0.0)}
    return result


def _world() -> World:
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        return World.of_process_group(GPU)
    return World.alone(GPU)


def stages(world: World | None = None, *, which: list[int | None]) -> list[dict[str, Any]]:
    """All numbers of three steps in float32 with some ZeRO stages; None: plain PyTorch.

    Args:
        world: of the CPU, for the numbers to compare with; by default all processes on the GPU.
    """
    FREE_PADDING["cpu"] = FREE_PADDING["cuda"]  # the same chunks, so that dropout draws the same
    return [
        _numbers(run_case(world or _world(), Case(stage=stage, num_rows=8, num_negatives=1)))
        for stage in which
    ]


def _numbers(result: dict[str, Any]) -> dict[str, Any]:
    tensors = {
        f"{kind} {name}": tensor.flatten().tolist()
        for kind in ("gradients", "parameters", "exported")
        for name, tensor in (result[kind] or {}).items()
    }
    return {"loss": result["loss"], "norm": result["norm"], **tensors}


def collectives() -> dict[str, Any]:
    """Collectives of two ranks on the GPU; those of the host are refused, as by NCCL."""
    world = World.of_process_group(GPU)
    local = torch.full((2,), float(world.rank), device=GPU)
    gathered = world.all_gather(local)
    objects: list[Any] = [None, None]
    torch.distributed.all_gather_object(objects, {"rank": world.rank})
    try:
        torch.distributed.all_reduce(torch.ones(1))
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    return {
        "gathered": [str(gathered.device), gathered.tolist()],
        "scattered": world.reduce_scatter(gathered * (1 + world.rank)).tolist(),
        "largest": world.all_max(world.rank),
        "objects": objects,
        "refused": refused,
    }


def chunk_rows(messages: list[str | None], most_rows: int = 100) -> list[tuple[int, list[int]]]:
    """Search the chunk size on a device that fails above 20 rows; return it, and the rows that were tried.

    Args:
        messages: of the failure, a search for each; None: torch's own error of full memory.
        most_rows: of the rank.
    """
    return [_chunk_rows(message, most_rows) for message in messages]


def _chunk_rows(message: str | None, most_rows: int) -> tuple[int, list[int]]:
    encoder = build_encoder(Case()).to(GPU)
    tried: list[int] = []
    forward = encoder.forward

    def limited(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        tried.append(len(input_ids))
        if len(input_ids) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory") if message is None else RuntimeError(message)
        return forward(input_ids, attention_mask)

    encoder.forward = limited  # type: ignore[method-assign]
    world = World.alone(GPU)
    rows = find_chunk_rows(encoder, max_tokens=12, most_rows=most_rows, world=world, reserve_bytes=1000)
    return rows, tried


def command(folder: str, settings: list[str]) -> dict[str, Any]:
    """Run `hbt-dist train quickstart` in a folder; return exit code, losses, and mAP of each evaluation."""
    os.chdir(folder)
    sys.argv = ["hbt-dist", "train", "quickstart", *settings, "--launcher", "local"]
    code: Any = 0
    try:
        main()
    except SystemExit as error:
        code = error.code
    return {"code": code, **outcome(Path(folder))}


def outcome(folder: Path) -> dict[str, Any]:
    """Losses and mAP of the run below a folder."""
    run = folder / "runs" / "quickstart"
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    evaluations = {
        file.parents[1].name: json.loads(file.read_text("utf-8"))["means"]["monolingual"]["macro"]["map"]
        for file in run.glob("evaluation/*/*/results.json")
    }
    return {"losses": [step["loss"] for step in steps if "loss" in step], "map": evaluations}
