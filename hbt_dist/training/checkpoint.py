"""Checkpoints that are complete or absent.

A checkpoint is written into ``step-N.tmp``, its files are hashed into a manifest, everything is flushed to
disk, and the folder is renamed to ``step-N``: a reader never sees half of one. The newest folder whose
files match its manifest is used; one that does not is named and passed over.

Cost: hashing reads the files once more; the ranks share that work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hbt_dist.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{10})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    manifest: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run, in one folder that all ranks see.

    Args:
        folder: holds one sub-folder per checkpoint.
        rank: this process.
        world_size: number of processes; all of them call `save`.
        keep: how many of the newest checkpoints stay.
        say: where messages for the user go (rank 0).
    """

    def __init__(
        self, folder: Path, *, rank: int, world_size: int, keep: int, say: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.keep = keep
        self.say = say

    def save(self, step: int, write: Callable[[Path], None], facts: dict[str, Any]) -> Path:
        """Save the state after `step` optimizer steps. Collective.

        Args:
            step: number of finished optimizer steps.
            write: puts this rank's files into the folder it is given.
            facts: what the manifest shall record besides the files (plain data).

        Raises:
            UserError: a rank could not write (disk full, rights); the previous checkpoints are untouched.
        """
        beside = self.folder / f"step-{step:010d}.tmp"
        final = self.folder / f"step-{step:010d}"
        self._together(lambda: self._make_room(beside), beside)
        self._together(lambda: write(beside), beside)
        shares: list[dict[str, Any]] = [{} for _ in range(self.world_size)]
        mine = self._together(lambda: self._hash_share(beside), beside)
        dist.all_gather_object(shares, mine)
        files = {name: entry for share in shares for name, entry in share.items()}
        self._together(lambda: self._commit(beside, final, step, files, facts), beside)
        return final

    def _make_room(self, beside: Path) -> None:
        if self.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)

    def _hash_share(self, beside: Path) -> dict[str, Any]:
        files = sorted(path for path in beside.rglob("*") if path.is_file())
        return {
            str(path.relative_to(beside)): {
                "bytes": path.stat().st_size,
                "sha256": hash_file(path, flush=True),
            }
            for path in files[self.rank :: self.world_size]
        }

    def _commit(
        self, beside: Path, final: Path, step: int, files: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        if self.rank != 0:
            return
        manifest = {"format": FORMAT, "step": step, **facts, "files": dict(sorted(files.items()))}
        write_durably(beside / MANIFEST, json.dumps(manifest, indent=1) + "\n")
        for folder in {path.parent for path in beside.rglob("*")}:
            flush_folder(folder)
        if final.exists():  # an invalid one that a resumed run passed over and has now reached again
            shutil.rmtree(final)
        beside.rename(final)
        flush_folder(self.folder)
        for old in self._steps()[: -self.keep]:
            shutil.rmtree(self.folder / f"step-{old:010d}", ignore_errors=True)

    def _together(self, action: Callable[[], Any], beside: Path) -> Any:
        """Run `action` on all ranks; if one fails, all raise, so that nobody waits for it."""
        result, problem = None, None
        try:
            result = action()
        except OSError as error:
            problem = f"rank {self.rank}: {error.strerror or error} ({error.filename or beside})"
        except RuntimeError as error:  # torch reports a full disk this way
            problem = f"rank {self.rank}: {str(error).splitlines()[0]}"
        problems: list[str | None] = [None] * self.world_size
        dist.all_gather_object(problems, problem)
        failed = [text for text in problems if text]
        if failed:
            if self.rank == 0:
                shutil.rmtree(beside, ignore_errors=True)
            raise UserError(
                str(beside),
                f"the checkpoint could not be written: {failed[0]}",
                "the previous checkpoint is untouched; make room or mend the rights,\n"
                "then start the same command again",
            )
        return result

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        names = (_NAME.fullmatch(path.name) for path in self.folder.iterdir() if path.is_dir())
        return sorted(int(match.group(1)) for match in names if match)

    def newest(self) -> Checkpoint | None:
        """The newest complete checkpoint. Collective: rank 0 looks, all get the same answer."""
        found: list[Checkpoint | None] = [None]
        if self.rank == 0:
            found[0] = self._newest()
        dist.broadcast_object_list(found, src=0)
        return found[0]

    def _newest(self) -> Checkpoint | None:
        for leftover in self.folder.glob("step-*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
        for step in reversed(self._steps()):
            folder = self.folder / f"step-{step:010d}"
            problem, manifest = verify(folder, step)
            if problem is None:
                return Checkpoint(folder, step, manifest)
            self.say(f"warning: checkpoint {folder} is passed over: {problem}")
        return None


def verify(folder: Path, step: int | None = None) -> tuple[str | None, dict[str, Any]]:
    """Check a checkpoint folder against its manifest.

    Returns:
        What is wrong (None if nothing is), and the manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        files = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in manifest["files"].items()
        }
        version, recorded = manifest["format"], manifest["step"]
    except FileNotFoundError:
        return "it has no manifest", {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is unreadable", {}
    if version != FORMAT:
        return f"its format is {version}, this version reads {FORMAT}", manifest
    if step is not None and recorded != step:
        return f"its manifest is of step {recorded}", manifest
    problems = (_differs(folder / name, name, size, digest) for name, (size, digest) in files.items())
    return next((problem for problem in problems if problem), None), manifest


def _differs(path: Path, name: str, size: int, digest: str) -> str | None:
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != size:
        return f"{name} has {path.stat().st_size} bytes, expected {size}"
    return None if hash_file(path) == digest else f"{name} does not match its checksum"


def hash_file(path: Path, *, flush: bool = False) -> str:
    """sha256 of a file; `flush` also forces it to disk."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if flush:
            os.fsync(file.fileno())
    return digest


def write_durably(path: Path, text: str) -> None:
    """Write a small file and force it to disk."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Force a folder's entries (new names) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
