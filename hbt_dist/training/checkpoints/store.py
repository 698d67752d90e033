"""Checkpoints that are complete or absent.

A checkpoint is written into ``step-N.tmp``, its files are hashed into a manifest, everything is flushed to
disk, and the folder is renamed to ``step-N``: a reader never sees half of one. The newest folder whose
files match its manifest is used; one that does not is named and passed over. The manifest carries its own
checksum, and a file that it does not list makes a checkpoint invalid too: DeepSpeed finds its files by
pattern and unpickles what it finds.

Cost: saving and loading hash the files once, about a second per GiB; the ranks share that work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import sha256_of

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"step-(\d{10})")
LATE_SECONDS = 30.0  # a network file system may show a new file so much later
_FULL = 16 * 1024**2  # bytes; with less room left a failed write is put down to a full disk


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
        removable: of the steps there are, which need not stay (rank 0).
        say: where messages for the user go (rank 0).
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        world_size: int,
        removable: Callable[[list[int]], set[int]],
        say: Callable[[str], None],
    ) -> None:
        self.folder = folder
        self.rank = rank
        self.world_size = world_size
        self.removable = removable
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
        seen = self._gather(self._together(lambda: sorted(_files_below(beside)), beside))
        mine = share_of(seen, self.rank)
        shares = self._gather(self._together(lambda: _hash_files(beside, mine), beside))
        files = {name: entry for share in shares for name, entry in share.items()}
        self._together(lambda: self._commit(beside, final, step, files, facts), beside)
        return final

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def _make_room(self, beside: Path) -> None:
        if self.rank == 0:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)

    def _commit(
        self, beside: Path, final: Path, step: int, files: dict[str, Any], facts: dict[str, Any]
    ) -> None:
        if self.rank != 0:
            return
        absent = next((name for name in sorted(files) if not appears(beside / name)), None)
        if absent is not None:
            raise RuntimeError(f"it does not see {absent}: output_dir must be one folder for all workers")
        write_manifest(beside, {"step": step, **facts}, files)
        if final.exists():  # an invalid one that a resumed run passed over and has now reached again
            shutil.rmtree(final)
        beside.rename(final)
        flush_folder(self.folder)
        # Newer ones are invalid, or this run would have started from them: they count for nothing here.
        for old in self.removable([other for other in self._steps() if other <= step]):
            shutil.rmtree(self.folder / f"step-{old:010d}", ignore_errors=True)

    def _together(self, action: Callable[[], Any], beside: Path) -> Any:
        """Run `action` on all ranks; if one fails, all raise, so that nobody waits for it."""
        result, problem = None, None
        try:
            result = action()
        except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
            problem = f"rank {self.rank}: {explain_failed_write(error, self.folder)}"
        failed = [text for text in self._gather(problem) if text]
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
        """The newest complete checkpoint; None before the first one. Collective: the ranks check its files.

        Raises:
            UserError: there are checkpoints, and none of them can be used.
        """
        steps: list[list[int]] = [[]]
        if self.rank == 0:
            for leftover in self.folder.glob("step-*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            steps[0] = self._steps()
        dist.broadcast_object_list(steps, src=0)
        problems: list[str] = []
        for step in reversed(steps[0]):
            folder = self.folder / f"step-{step:010d}"
            problem, manifest = verify(folder, step, share=(self.rank, self.world_size))
            problems = [text for text in self._gather(problem) if text]
            if not problems:
                return Checkpoint(folder, step, manifest)
            self.say(f"warning: checkpoint {folder} is passed over: {problems[0]}")
        if problems:
            raise UserError(
                str(self.folder),
                f"holds {len(steps[0])} checkpoints, and none can be used; of the oldest: {problems[0]}",
                "the run would start at step 0 and replace them: bring back a good one, remove the folder,\n"
                "or choose another output_dir",
            )
        return None


def newest_below(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint of a run, for one process that only reads."""
    for path in sorted(folder.iterdir(), reverse=True):
        match = _NAME.fullmatch(path.name)
        if match:
            problem, manifest = verify(path, int(match.group(1)))
            if problem is None:
                return Checkpoint(path, manifest["step"], manifest)
    return None


def verify(
    folder: Path, step: int | None = None, *, share: tuple[int, int] = (0, 1)
) -> tuple[str | None, dict[str, Any]]:
    """Check a checkpoint folder against its manifest.

    Args:
        folder: of the checkpoint.
        step: that the manifest must be of, if known.
        share: (rank, world size); this process checks its share of the files only.

    Returns:
        What is wrong (None if nothing is), and the manifest.
    """
    try:
        manifest = read_manifest(folder)
        listed = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in manifest["files"].items()
        }
        version, recorded = manifest["format"], manifest["step"]
        present = set(_files_below(folder))
    except FileNotFoundError:
        return "it has no manifest", {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "its manifest is damaged", {}
    unknown = sorted(present - set(listed))
    problem = None
    if version != FORMAT:
        problem = f"its format is {version}, this version reads {FORMAT}"
    elif step is not None and recorded != step:
        problem = f"its manifest is of step {recorded}"
    elif unknown:
        problem = f"it holds {unknown[0]}, which its manifest does not list"
    else:
        rank, world_size = share
        mine = sorted(listed)[rank::world_size]
        problems = (_differs(folder / name, name, *listed[name]) for name in mine)
        problem = next((text for text in problems if text), None)
    return problem, manifest


def _differs(path: Path, name: str, size: int, digest: str) -> str | None:
    try:
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, expected {size}"
        return None if sha256_of(path) == digest else f"{name} does not match its checksum"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"


def write_manifest(folder: Path, content: dict[str, Any], files: dict[str, Any]) -> None:
    """Write the manifest of a folder whose files are flushed, and flush it and all folders."""
    manifest = {"format": FORMAT, **content, "files": dict(sorted(files.items()))}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        file.write(_encode(manifest))
        file.flush()
        os.fsync(file.fileno())
    for changed in {path.parent for path in folder.rglob("*")}:
        flush_folder(changed)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a byte of it has changed since it was written.
    """
    data = (folder / MANIFEST).read_bytes()
    manifest = json.loads(data)
    content = {key: value for key, value in manifest.items() if key != "sha256"}
    if _encode(content).encode() != data:
        raise ValueError("checksum")
    return content


def _encode(manifest: dict[str, Any]) -> str:
    """JSON that ends with the checksum of the rest; one manifest has exactly one form."""
    digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    return json.dumps({**manifest, "sha256": digest}, indent=1) + "\n"


def _files_below(folder: Path) -> Iterable[str]:
    """Relative names, without the manifest, and without hidden files: network file systems leave some behind,
    and nothing reads them.
    """
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if not path.is_dir() and not path.name.startswith(".") and str(name) != MANIFEST:
            yield str(name)


def share_of(seen: list[list[str]], rank: int) -> list[str]:
    """The files that `rank` hashes, given what every rank sees.

    On a network file system a rank may see a file of another node late, its own never.
    """
    names = sorted({name for names in seen for name in names})
    mine = []
    for number, name in enumerate(names):
        owners = [owner for owner, visible in enumerate(seen) if name in visible]
        if owners[number % len(owners)] == rank:
            mine.append(name)
    return mine


def _hash_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name, flush=True)}
        for name in names
    }


def manifest_entries(folder: Path) -> dict[str, Any]:
    """Sizes and checksums of all files of a folder, flushed to disk."""
    return _hash_files(folder, _files_below(folder))


def explain_failed_write(error: OSError | RuntimeError, folder: Path) -> str:
    """One line for a person: the file system's own words, or what torch's writer meant."""
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    if isinstance(error, OSError):
        return f"{error.strerror or error} ({error.filename or folder})"
    if free < _FULL:
        return f"No space left on device ({free / 1024**2:.1f} MiB free at {folder})"
    return str(error).splitlines()[0]


def appears(path: Path, seconds: float | None = None) -> bool:
    """Whether a file is there, or comes within so many seconds, `LATE_SECONDS` if not given."""
    deadline = time.monotonic() + (LATE_SECONDS if seconds is None else seconds)
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def flush_folder(folder: Path) -> None:
    """Force a folder's entries (new names) to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
