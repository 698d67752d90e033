"""Make contrastive steps on the CPU and on the pretended GPU, and compare them bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hbt_dist.contrastive.chunks import FREE_PADDING
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings
from tests.contrastive.tiny import Case, build_encoder, locals_of, seed_of


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
