"""Convert a ZeRO checkpoint to DeepSpeed's universal form, which loads on any number of workers.

A ZeRO checkpoint has one piece per worker and loads on the same number of workers only. The universal form
has one file per parameter and optimizer moment. Rank 0 converts once, in a separate process; the result is
kept next to the checkpoints until the next save, and verified like a checkpoint before it is unpickled.

Cost: time to read and write 12 bytes per parameter, and the same space on disk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, explain_failed_write, flush_to_disk
from hbt_dist.contrastive.world import World
from hbt_dist.training.checkpoints.engine_state import TAG
from hbt_dist.training.checkpoints.manifest import files_below, hash_files, verify, write_manifest
from hbt_dist.training.checkpoints.store import Checkpoint
from hbt_dist.training.ranks import wait_for_rank_0


def universal_form(checkpoint: Checkpoint, cache: Path, world: World) -> Path:
    """Return the folder of a checkpoint's universal form; convert it once. Collective.

    Args:
        checkpoint: its checksums were verified.
        cache: folder for universal forms, on a file system that all ranks see.
        world: the ranks.

    Raises:
        UserError: on all ranks: the conversion failed, and why.
    """
    folder = cache / checkpoint.folder.name
    wait_for_rank_0(lambda: _convert(checkpoint, folder), world)
    return folder


def _convert(checkpoint: Checkpoint, folder: Path) -> None:
    problem, manifest = verify(folder, checkpoint.step)
    if problem is None and manifest["made_from"] == checkpoint.manifest["files"]:
        return
    try:
        with atomic_folder(folder) as temporary:
            _run_converter(checkpoint, temporary)
            entries = hash_files(temporary, files_below(temporary))
            facts = {"step": checkpoint.step, "made_from": checkpoint.manifest["files"]}
            write_manifest(temporary, facts, entries)
            shutil.rmtree(folder, ignore_errors=True)
        flush_to_disk(folder.parent)
    except (OSError, RuntimeError) as error:
        raise UserError(
            str(checkpoint.folder),
            f"cannot be converted for another number of workers: {explain_failed_write(error, folder)}",
            f"start with {checkpoint.manifest['world_size']} workers, or make room and start again",
        ) from error


def _run_converter(checkpoint: Checkpoint, target: Path) -> None:
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", str(checkpoint.folder / TAG), "--output_folder", str(target / TAG)]
    command += ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    if checkpoint.manifest["zero_stage"] < 3:
        command.append("--inject_missing_state")
    converter = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "DS_ACCELERATOR": "cpu"},  # it computes nothing, and the workers use the GPUs
        check=False,
    )
    if converter.returncode != 0:
        lines = converter.stdout.strip().splitlines() or [f"exit code {converter.returncode}"]
        problem = RuntimeError(lines[-1])
        raise RuntimeError(explain_failed_write(problem, target))  # here, while a full disk is still full
    (target / "latest_universal").unlink(missing_ok=True)
