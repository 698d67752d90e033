"""What every rank runs in tests/training/test_store.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hbt_dist.common import files
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.training.checkpoints.engine_state import load_engine, save_engine
from hbt_dist.training.checkpoints.store import CheckpointStore
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.ranks import attempt, on_rank_0, raise_everywhere, require_shared
from hbt_dist.training.settings import OptimizerSettings


def store_of(world: World, folder: Path, said: list[str], keep: int = 2) -> CheckpointStore:
    return CheckpointStore(
        folder,
        rank=world.rank,
        world_size=world.size,
        removable=lambda steps: set(steps[:-keep]),
        say=said.append,
    )


def write_some(world: World, folder: Path, step: int, size: int = 3000) -> None:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    (folder / "state" / f"rank_{world.rank}.bin").write_bytes(bytes((step + i) % 251 for i in range(size)))


def save_steps(world: World, folder: str, steps: list[int], keep: int = 2) -> None:
    store = store_of(world, Path(folder), [], keep)
    for step in steps:
        facts = {"name": "tëst", "world_size": world.size}
        store.save(step, lambda place, step=step: write_some(world, place, step), facts)


def look(world: World, folder: str) -> tuple[int | None, list[str]]:
    """Step of the newest complete checkpoint, and what was said."""
    said: list[str] = []
    found = store_of(world, Path(folder), said).newest()
    return (None if found is None else found.step), said


def refused(world: World, folder: str) -> tuple[str, list[str]]:
    """What `newest` refuses to go on with, and what was said."""
    said: list[str] = []
    try:
        store_of(world, Path(folder), said).newest()
    except UserError as error:
        return str(error), said
    return "nothing", said


def on_disks_of_their_own(world: World, folder: str) -> list[str]:
    """Every rank has another folder: what a start says, and what a save says."""
    own = Path(f"{folder}-{world.rank}")
    own.mkdir()
    files.LATE_SECONDS = 0.2
    problems = []
    for action in (
        lambda: require_shared(own, world, 0.2),
        lambda: store_of(world, own, []).save(1, lambda place: write_some(world, place, 1), {}),
    ):
        try:
            action()
            problems.append("nothing")
        except UserError as error:
            problems.append(str(error))
    return [*problems, *_names(own)]


def shared_by_all(world: World, folder: str) -> list[str]:
    require_shared(Path(folder), world)
    dist.barrier()  # rank 0 has removed its mark
    return _names(Path(folder))


def rank_0_cannot_write(world: World, folder: str) -> list[str]:
    """What every rank hears when rank 0 alone fails."""

    def write() -> None:
        (Path(folder) / "absent" / "file").write_text("x")

    problems = []
    for action in (
        lambda: on_rank_0(world, Path(folder), write),
        lambda: raise_everywhere(world, attempt(write, Path(folder))[1] if world.rank == 0 else None),
    ):
        try:
            action()
        except UserError as error:
            problems.append(str(error))
    return problems


def look_at_all(world: World, folders: list[str]) -> list[tuple[int | None, list[str]]]:
    return [look(world, folder) for folder in folders]


def save_until_full(world: World, folder: str, stage: int | None) -> dict[str, Any]:
    """Save a real engine twice; the second time 48 KiB are left. What is raised, what loads."""
    encoder = torch.nn.Linear(200, 200)
    torch.nn.init.ones_(encoder.weight)
    settings = resolve_deepspeed(DeepSpeedSettings(config=stage), device_type="cpu")
    engine = build_engine(
        encoder, optimizer=OptimizerSettings(), total_steps=5, world=world, deepspeed=settings
    )
    said: list[str] = []
    store = store_of(world, Path(folder), said)
    store.save(1, lambda place: save_engine(engine, place), {})
    if world.rank == 0:
        free = shutil.disk_usage(folder).free
        Path(folder).with_name("other").write_bytes(bytes(free - 48 * 1024))
    dist.barrier()
    problem = None
    try:
        store.save(2, lambda place: save_engine(engine, place), {})
    except UserError as error:
        problem = str(error)
    found = store.newest()
    assert found is not None
    if stage != 3:  # a ZeRO-3 engine cannot load after it has saved
        load_engine(engine, found.folder)
    return {"problem": problem, "step": found.step, "said": said, "left": _names(Path(folder))}


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
