"""Save checkpoints that are complete or absent, and find the newest complete checkpoint.

All ranks write into ``step-N.tmp``, hash the files into a manifest, flush everything to disk, and rename the
folder to ``step-N``: a reader never sees half a checkpoint. A start uses the newest folder that matches its
manifest; a damaged folder is named in the log and passed over.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import explain_failed_write, flush_to_disk, wait_for
from hbt_dist.training.checkpoints.manifest import files_below, hash_files, verify, write_manifest
from hbt_dist.training.run_folder import checkpoint_name, checkpoint_steps

MINED = "mined"
Result = TypeVar("Result")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    folder: Path
    step: int
    manifest: dict[str, Any]

    @property
    def mined(self) -> Path:
        """Folder of the hard negatives that the next step draws, if they were mined some steps ago."""
        return self.folder / MINED


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run, in one folder that all ranks see.

    Args:
        folder: has one sub-folder per checkpoint.
        rank: this process.
        world_size: number of processes.
        removable: returns which of the given steps need not be kept (rank 0).
        say: receives messages for the user (rank 0).
    """

    folder: Path
    _: KW_ONLY
    rank: int
    world_size: int
    removable: Callable[[list[int]], set[int]]
    say: Callable[[str], None]

    def save(self, step: int, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
        """Save the state after `step` optimizer steps. Collective.

        Args:
            step: number of finished optimizer steps.
            write: writes this rank's files into the given folder.
            facts: plain data that the manifest records next to the files.

        Raises:
            UserError: a rank could not write (disk full, permissions); older checkpoints are untouched.
        """
        temporary = self.folder / f"{checkpoint_name(step)}.tmp"
        self._on_all_ranks(temporary, lambda: self._make_room(temporary))
        self._on_all_ranks(temporary, lambda: write(temporary))
        visible = self._on_all_ranks(temporary, lambda: files_below(temporary))
        names = share_of(visible, self.rank)
        shares = self._on_all_ranks(temporary, lambda: hash_files(temporary, names))
        entries = {name: entry for share in shares for name, entry in share.items()}
        self._on_all_ranks(temporary, lambda: self._commit(temporary, step, facts, entries))

    def _make_room(self, temporary: Path) -> None:
        if self.rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)

    def _commit(self, temporary: Path, step: int, facts: dict[str, Any], entries: dict[str, Any]) -> None:
        if self.rank != 0:
            return
        absent = next((name for name in sorted(entries) if not wait_for(temporary / name)), None)
        if absent is not None:
            raise RuntimeError(f"it does not see {absent}: output_dir must be one folder for all workers")
        write_manifest(temporary, {"step": step, **facts}, entries)
        final = self.folder / checkpoint_name(step)
        if final.exists():  # damaged: a resumed run passed it over and has now reached its step again
            shutil.rmtree(final)
        temporary.rename(final)
        flush_to_disk(self.folder)
        # Newer checkpoints are damaged, or this run would have started from them: they do not count.
        for old in self.removable([saved for saved in checkpoint_steps(self.folder) if saved <= step]):
            shutil.rmtree(self.folder / checkpoint_name(old), ignore_errors=True)

    def _on_all_ranks(self, temporary: Path, action: Callable[[], Result]) -> list[Result]:
        """Run `action` on all ranks and return all results; if it fails on one rank, raise on all ranks."""
        result, problem = None, None
        try:
            result = action()
        except (OSError, RuntimeError, UserError) as error:  # torch reports a failed write as a RuntimeError
            problem = f"rank {self.rank}: {explain_failed_write(error, self.folder)}"
        outcomes = self._gather((result, problem))
        problems = [problem for _, problem in outcomes if problem is not None]
        if problems:
            if self.rank == 0:
                shutil.rmtree(temporary, ignore_errors=True)
            raise UserError(
                str(temporary),
                f"the checkpoint could not be written: {problems[0]}",
                "the previous checkpoint is untouched; make room or fix the permissions,\n"
                "then start the same command again",
            )
        return [result for result, _ in outcomes]

    def _gather(self, value: Any) -> list[Any]:
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint; None before the first. Collective: ranks share the hashing.

        Raises:
            UserError: there are checkpoints, and all of them are damaged.
        """
        steps: list[list[int]] = [[]]
        if self.rank == 0:
            for leftover in self.folder.glob("step-*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            steps[0] = checkpoint_steps(self.folder)
        dist.broadcast_object_list(steps, src=0)
        problems: list[str] = []
        for step in reversed(steps[0]):
            folder = self.folder / checkpoint_name(step)
            problem, manifest = verify(folder, step, share=(self.rank, self.world_size))
            problems = [problem for problem in self._gather(problem) if problem is not None]
            if not problems:
                return Checkpoint(folder, step, manifest)
            self.say(f"warning: checkpoint {folder} is passed over: {problems[0]}")
        if problems:
            raise UserError(
                str(self.folder),
                f"holds {len(steps[0])} checkpoints, and all are damaged; the oldest: {problems[0]}",
                "the run would start at step 0 and replace them: restore a complete one, remove the folder,\n"
                "or choose another output_dir",
            )
        return None


def newest_complete(folder: Path) -> Checkpoint | None:
    """Return the newest complete checkpoint in `folder`, for one process that only reads."""
    for step in reversed(checkpoint_steps(folder)):
        problem, manifest = verify(folder / checkpoint_name(step), step)
        if problem is None:
            return Checkpoint(folder / checkpoint_name(step), step, manifest)
    return None


def share_of(visible: list[list[str]], rank: int) -> list[str]:
    """Return the files that `rank` hashes, given the files that every rank sees.

    On a network file system a rank may see a file of another node late, but sees its own files at once.
    """
    share = []
    for number, name in enumerate(sorted({name for names in visible for name in names})):
        ranks = [reader for reader, names in enumerate(visible) if name in names]
        if ranks[number % len(ranks)] == rank:
            share.append(name)
    return share
