"""Continue on another number of workers: ZeRO checkpoints in DeepSpeed's universal form.

A ZeRO checkpoint is cut into one piece per worker and loads on that number only. The universal form holds
one file per parameter and optimizer moment and loads on any number. It is made once, by rank 0 in a process
of its own, kept beside the checkpoints until the next one is saved, and checked like a checkpoint before it
is unpickled.

Cost: time to read and write 12 bytes per parameter, and that much disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.training.checkpoints.engine_state import TAG
from hbt_dist.training.checkpoints.store import (
    Checkpoint,
    explain_failed_write,
    flush_folder,
    manifest_entries,
    verify,
    write_manifest,
)

#: Seconds between two signs of life while rank 0 converts; far below any limit of a collective.
_SIGN_OF_LIFE = 2.0


def universal_form(found: Checkpoint, cache: Path, world: World) -> Path:
    """The universal form of a checkpoint, converted if it is not in `cache` yet. Collective.

    Args:
        found: a checkpoint whose checksums were verified.
        cache: folder for universal forms, on a file system that all ranks see.
        world: the ranks.

    Raises:
        UserError: on all ranks: the conversion failed, and why.
    """
    folder = cache / found.folder.name
    beside = cache / f"{found.folder.name}.tmp"
    process = None
    state: list[Any] = ["converting"]
    if world.rank == 0:
        if _is_of(folder, found):
            state[0] = "ready"
        else:
            process = _start(found, beside)
    while state[0] == "converting":
        if process is not None:
            state[0] = _follow(process, found, beside, folder)
        dist.broadcast_object_list(state, src=0, group=world.group)
    if isinstance(state[0], UserError):
        raise state[0]
    return folder


def _is_of(folder: Path, found: Checkpoint) -> bool:
    """Whether a complete universal form of this very checkpoint lies there."""
    problem, manifest = verify(folder, found.step)
    return problem is None and manifest.get("made_from") == found.manifest["files"]


def _start(found: Checkpoint, beside: Path) -> subprocess.Popen[bytes]:
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(found.folder / TAG), "--output_folder", str(beside / TAG)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    if found.manifest["zero_stage"] < 3:
        command.append("--inject_missing_state")
    with (beside / ".log").open("wb") as log:
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "DS_ACCELERATOR": "cpu"},  # it computes nothing, and the GPUs are taken
        )


def _follow(process: subprocess.Popen[bytes], found: Checkpoint, beside: Path, folder: Path) -> Any:
    """Wait a little; "converting", "ready", or the error."""
    try:
        code = process.wait(_SIGN_OF_LIFE)
    except subprocess.TimeoutExpired:
        return "converting"
    try:
        if code != 0:
            lines = (beside / ".log").read_text("utf-8", errors="replace").strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit code {code}")
        (beside / "latest_universal").unlink(missing_ok=True)
        content = {"step": found.step, "made_from": found.manifest["files"]}
        write_manifest(beside, content, manifest_entries(beside))
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
        flush_folder(folder.parent)
    except (OSError, RuntimeError) as error:
        return UserError(
            str(found.folder),
            f"cannot be converted for another number of workers: {explain_failed_write(error, beside)}",
            f"start with {found.manifest['world_size']} workers, or make room and start again",
        )
    return "ready"
