"""Every variant of the contrastive step on the CPU and on the pretended GPU, compared bit by bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hbt_dist.contrastive.chunks import FREE_PADDING
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings
from tests.contrastive.tiny import Case, build_encoder, locals_of, seed_of
from tests.pretended_gpu.tensors import OPERATIONS

_BASE = Case(stage=None, loss={"mask_false_negatives": False}, steps=2)
_BOTH = {"directions": "both", "mask_false_negatives": True}
_TERMS = {
    "denominators": ["question_question", "passage_passage", "passage_question"],
    "hardness": {"columns": "both"},
    "spread_out": {},
}
#: Every variant of the contrastive step.
VARIANTS = {
    "cached": _BASE,
    "direct": _BASE.but(step={"mode": "direct"}),
    "masks, negatives, both directions": _BASE.but(duplicates=True, num_negatives=2, loss=_BOTH),
    "sub-batches, alignment": _BASE.but(loss={"negatives": "sub_batch", "alignment_weight": 0.5}),
    "sub-batches, masks, negatives": _BASE.but(
        duplicates=True, num_negatives=2, loss={"negatives": "sub_batch", **_BOTH}
    ),
    "false negatives by similarity": _BASE.but(
        duplicates=True,
        num_negatives=2,
        loss={**_BOTH, "false_negatives": {"margin": 0.02, "columns": "in_batch"}},
    ),
    "false negatives by a guide": _BASE.but(
        num_negatives=1, loss={"negatives": "sub_batch", "false_negatives": {"margin": 0.0, "guide": "guide"}}
    ),
    "distillation": _BASE.but(num_negatives=2, loss={"distillation": {"temperature": 0.5}}),
    "Eq. 1 of the paper": _BASE.but(num_negatives=1, loss={"equation": "paper_eq1"}),
    "learned temperature": _BASE.but(loss={"learn_temperature": True}),
    "dot products": _BASE.but(loss={"similarity": "dot", "temperature": 1.0}),
    "denominators, hardness, spread-out": _BASE.but(
        duplicates=True, num_negatives=2, loss={**_TERMS, "negatives": "sub_batch", "widths": [16, 6]}
    ),
    "XLM-R, cached": _BASE.but(model="xlmr"),
    "XLM-R, direct": _BASE.but(model="xlmr", step={"mode": "direct"}),
    "XLM-R, checkpointing": _BASE.but(model="xlmr", checkpointing=True),
    "XLM-R, some graphs kept": _BASE.but(
        model="xlmr", step={"mode": "auto", "chunk_tokens": 40, "kept_tokens": 80}
    ),
    "XLM-R, chunks by tokens": _BASE.but(model="xlmr", step={"chunk_tokens": 40, "chunk_rows": 16}),
}


@dataclass(frozen=True)
class Steps:
    """What some optimizer steps gave."""

    losses: list[float]
    norms: list[float]
    num_chunks: list[int]
    parameters: Tensor  # flat, on the CPU


def build(case: Case, world: World, resolved: ResolvedDeepSpeed | None = None) -> Engine:
    """Build the engine of a case; checkpointing is on if the case has it."""
    return build_engine(
        build_encoder(case).to(world.device),
        optimizer=OptimizerSettings(),
        total_steps=10,
        world=world,
        deepspeed=resolved or ResolvedDeepSpeed(gradient_checkpointing=case.checkpointing),
        loss=case.loss_settings,
    )


def make_steps(case: Case, engine: Engine, world: World) -> Steps:
    """Make the steps of a case, as the trainer makes them."""
    engine.train()
    losses, norms, num_chunks = [], [], []
    for step in range(case.steps):
        local = locals_of(case, world.size, step)[world.rank]
        torch.manual_seed(seed_of(step, world.rank))
        result = contrastive_step(engine, local, case.loss_settings, case.step_settings, world)
        norms.append(engine.step(step))
        losses.append(result.loss)
        num_chunks.append(result.num_chunks)
    flat = [parameter.detach().cpu().flatten() for parameter in engine.model.parameters()]
    return Steps(losses, norms, num_chunks, torch.cat(flat))


def steps_on(device: str, case: Case) -> Steps:
    """Build the engine of a case on a device and make its steps in one process."""
    world = World.alone(device)
    return make_steps(case, build(case, world), world)


def differences(case: Case) -> dict[str, float]:
    """Return the largest differences between CPU and pretended GPU; all are 0 if nothing is wrong."""
    FREE_PADDING["cpu"] = FREE_PADDING["cuda"]  # the same chunks, so that dropout draws the same
    cpu, gpu = steps_on("cpu", case), steps_on("cuda:0", case)
    return {
        "loss": max(abs(a - b) for a, b in zip(cpu.losses, gpu.losses, strict=True)),
        "norm": max(abs(a - b) for a, b in zip(cpu.norms, gpu.norms, strict=True)),
        "parameters": float((cpu.parameters - gpu.parameters).abs().max()),
        "chunks": max(abs(a - b) for a, b in zip(cpu.num_chunks, gpu.num_chunks, strict=True)),
    }


def variants(names: list[str]) -> dict[str, Any]:
    """Compare each variant on the CPU and on the GPU."""
    return {name: differences(VARIANTS[name]) for name in names}


def packed() -> dict[str, float]:
    """Steps in bfloat16 without dropout: on the GPU rows are packed, on the CPU they need not be.

    Returns:
        relative differences to the CPU's steps in float32, and how often the kernel of packed rows ran.
    """
    case = Case(stage=None, model="packed", dropout=0.0, steps=2)
    exact = steps_on("cpu", case)
    calls = 0

    def counted(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        nonlocal calls
        calls += 1
        return kernel(func, args, kwargs)

    name = "torch_attn::_varlen_attn"
    kernel = OPERATIONS[name]
    OPERATIONS[name] = counted
    world = World.alone("cuda:0")
    low = make_steps(case, build(case, world, ResolvedDeepSpeed(precision="bf16_autocast")), world)
    return {
        "loss": max(abs(a / b - 1) for a, b in zip(low.losses, exact.losses, strict=True)),
        "norm": max(abs(a / b - 1) for a, b in zip(low.norms, exact.norms, strict=True)),
        "calls": calls,
    }


def planted_faults() -> dict[str, str]:
    """Return what each fault shows that only a GPU has; "equal" if it shows nothing."""
    from hbt_dist.contrastive.world import World

    gather, scatter = World.all_gather, World.reduce_scatter
    faults: dict[str, tuple[Any, str, Any]] = {
        "none": (World, "all_gather", gather),
        "the GPU's generator is not replayed": (torch.cuda, "set_rng_state", lambda *_: None),
        "a tensor stays on the CPU": (World, "all_gather", lambda world, rows: gather(world, rows).cpu()),
        "numpy() of a GPU's tensor": (
            World,
            "all_gather",
            lambda world, rows: torch.from_numpy(gather(world, rows).numpy()).to(world.device),
        ),
        "a wrong scale on the GPU": (
            World,
            "reduce_scatter",
            lambda world, rows: scatter(world, rows) * (1.001 if world.device.type == "cuda" else 1.0),
        ),
    }
    shown = {}
    for fault, (owner, name, replacement) in faults.items():
        before = getattr(owner, name)
        setattr(owner, name, replacement)
        try:
            result = differences(_BASE)
            shown[fault] = "equal" if not any(result.values()) else "different"
        except (RuntimeError, TypeError) as error:
            shown[fault] = str(error)
        setattr(owner, name, before)
    return shown
