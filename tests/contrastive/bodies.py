"""What every rank runs in tests/contrastive/."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive import row_losses as kernels
from hbt_dist.contrastive.chunks import Limits, plan_chunks
from hbt_dist.contrastive.finite import NonFiniteError
from hbt_dist.contrastive.gather import check_equal_slices, gather_embeddings, scatter_gradients
from hbt_dist.contrastive.settings import Kernel
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.settings import OptimizerSettings
from tests.contrastive.tiny import Case, Texts, build_encoder, locals_of


def gather_and_scatter(world: World) -> dict[str, Any]:
    """Rank r holds r; every rank weighs what it gathered by its own factor r + 1."""
    local = torch.full((2, 3), float(world.rank))
    gathered = gather_embeddings(local, world)
    back = scatter_gradients(gathered * 0 + torch.arange(len(gathered))[:, None] + 100.0 * world.rank, world)
    return {"gathered": gathered, "back": back, "traffic": world.traffic}


def unequal_slices(world: World) -> str:
    """Every rank must refuse: one that goes on would hang."""
    check_equal_slices(4, 1, world)
    try:
        check_equal_slices(4 + (world.rank == 1), 1, world)
    except UserError as error:
        return str(error)
    return "accepted"


def chunk_counts(world: World) -> list[int]:
    """Texts of very different length per rank, cut by tokens."""
    generator = np.random.default_rng(world.rank)
    most = 3 if world.rank == 0 else 30
    texts = Texts([np.ones(length, dtype=int) for length in generator.integers(1, most, 20)])
    chunks = plan_chunks({"question": texts, "passage": texts}, Limits(8, 40, 0.1), world)
    for role in ("question", "passage"):
        rows = np.concatenate([chunk.rows for chunk in chunks if chunk.role == role])
        assert sorted(rows) == list(range(20))
        assert all(len(chunk.rows) for chunk in chunks)
    return [sum(chunk.role == role for chunk in chunks) for role in ("question", "passage")]


def traffic_of(world: World, cases: list[Case]) -> list[dict[str, tuple[int, int]]]:
    """Embedding collectives of one step of each case."""
    found = []
    for case in cases:
        optimizer = OptimizerSettings()
        engine = build_engine(build_encoder(case), optimizer=optimizer, total_steps=1, world=world)
        local = locals_of(case, world.size, 0)[world.rank]
        found.append(contrastive_step(engine, local, case.loss_settings, case.step_settings, world).traffic)
    return found


def everything(world: World, cases: list[Case], poisoned_case: Case) -> dict[str, Any]:
    """All of this file in one start of the processes."""
    return {
        "gather": gather_and_scatter(World.of_process_group()),
        "unequal": unequal_slices(world),
        "chunks": chunk_counts(world),
        "traffic": traffic_of(world, cases),
        **{where: poisoned(world, poisoned_case, where) for where in ("nan", "inf")},
    }


def poisoned(world: World, case: Case, where: str) -> dict[str, Any]:
    """NaN for one text of the last rank: every rank must stop in this step."""
    engine = build_engine(build_encoder(case), optimizer=OptimizerSettings(), total_steps=1, world=world)
    local = locals_of(case, world.size, 0)[world.rank]
    encode = engine.encode
    poison = 119

    def bad(input_ids: torch.Tensor, mask: torch.Tensor, lengths: list[int]) -> Any:
        found, log_scale = encode(input_ids, mask, lengths)
        return torch.where((input_ids == poison).any(1)[:, None], float(where), found), log_scale

    engine.encode = bad  # type: ignore[method-assign]
    for texts in (local.questions, local.passages):
        for row in texts.rows:
            row[row == poison] = 5
    if world.rank == world.size - 1:
        local.passages.rows[1][0] = poison
    try:
        contrastive_step(engine, local, case.loss_settings, case.step_settings, world)
    except NonFiniteError as error:
        return {"what": error.what, "rows": error.rows.tolist(), "text": str(error), "step": error.step}
    return {"what": "nothing"}


def kernel_errors(
    _: World, kernel: Kernel, sizes: list[tuple[int, int, int, int]]
) -> list[dict[str, tuple[float, float]]]:
    """Loss and gradients in float32: the kernel's errors, and those of rows, to a whole matrix in float64."""
    found = []
    for num_rows, num_columns, width, row_chunk in sizes:
        generator = torch.Generator().manual_seed(num_columns)
        rows, columns = (
            F.normalize(torch.randn(count, width, generator=generator), dim=-1)
            for count in (num_rows, num_columns)
        )
        target = torch.randint(num_columns, (num_rows,), generator=generator)
        # The columns' gradient is added to it; small enough not to hide that gradient's errors.
        before = torch.randn(columns.shape, generator=generator) / columns.numel() ** 0.5
        exact = rows.double().requires_grad_(), columns.double().requires_grad_()
        loss = F.cross_entropy(20 * exact[0] @ exact[1].T, target, reduction="sum")
        (0.3 * loss).backward()
        want = {"loss": loss.detach(), "rows": exact[0].grad, "columns": before.double() + exact[1].grad}
        errors = []
        for function in (kernels.UNMASKED[kernel], kernels.infonce_rows):
            block = kernels.Block(rows, torch.zeros_like(rows), columns, before.clone())
            loss = function([block], target, scale=20.0, weight=0.3, row_chunk=row_chunk)
            got = {"loss": loss, "rows": block.rows_grad_bD, "columns": block.columns_grad_MD}
            errors.append({name: float((got[name].double() - want[name]).norm()) for name in want})
        sizes_of = {name: max(float(tensor.norm()), 1e-30) for name, tensor in want.items()}
        found.append({name: tuple(each[name] / sizes_of[name] for each in errors) for name in want})
    return found


def refused_on_the_last_rank(world: World) -> str:
    """A kernel that fails on one rank alone."""

    def sometimes(*arguments: Any, **sizes: Any) -> Any:
        if world.rank == world.size - 1:
            raise RuntimeError("no compiler")
        return kernels.infonce_rows(*arguments, **sizes)

    os.environ["TRITON_INTERPRET"] = "1"
    kernels.UNMASKED["liger"] = sometimes  # type: ignore[index]
    try:
        kernels.check_kernel("liger", world)
    except UserError as error:
        return str(error)
    return "accepted"
