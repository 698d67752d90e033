"""Pass every new checkpoint of a run to a function while training goes on, in a thread.

The thread watches the run's folder, so it works in every process that sees the folder: the driver of a Ray
run, or rank 0. Hard links hold a checkpoint while the function works with it; the run may remove its names.
Training waits only at its end, until the function has seen the checkpoints that remain.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, link_files
from hbt_dist.training.checkpoints.manifest import read_manifest
from hbt_dist.training.run_folder import RunFolder, checkpoint_name, checkpoint_steps


class CheckpointWatcher:
    """Passes every complete checkpoint to `handle`, one at a time.

    Args:
        folder: of the run.
        name: of the work; two watchers of one run need two names.
        handle: receives a held checkpoint's folder and step; its errors are printed and end nothing.
        say: receives messages.
        done: steps that earlier starts have handled.
        newest_first: start with the newest waiting step instead of the oldest.
        most_waiting: if more checkpoints wait, the oldest are passed to `skip` instead.
        skip: receives the steps that are left out.
        unneeded: returns which of the waiting steps (in order) need not be handled anymore.
        every: seconds between two looks into the folder.
    """

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        handle: Callable[[Path, int], None],
        *,
        say: Callable[[str], None],
        done: set[int] | None = None,
        newest_first: bool = False,
        most_waiting: int | None = None,
        skip: Callable[[int], None] = lambda step: None,
        unneeded: Callable[[list[int]], set[int]] = lambda steps: set(),
        every: float = 1.0,
    ) -> None:
        self.folder, self.name, self.handle, self.say = folder, name, handle, say
        self.newest_first, self.most_waiting, self.skip, self.every = newest_first, most_waiting, skip, every
        self.unneeded = unneeded
        self._seen = set(done or ())
        self._ended: set[int] = set()  # handled or left out; removing the links may take longer
        self._held = folder.root / f"held-{name}"
        self._stop, self._cancelled = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name=name, daemon=True)

    def __enter__(self) -> Self:
        shutil.rmtree(self._held, ignore_errors=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancelled = kind is not None
        self._stop.set()
        self._thread.join(5 if self._cancelled else None)
        shutil.rmtree(self._held, ignore_errors=True)

    def _watch(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(self.every)
            while (waiting := self._hold_new()) and not self._cancelled:
                self._work(waiting[-1 if self.newest_first else 0])

    def _hold_new(self) -> list[int]:
        """Hold new checkpoints and return the steps that wait, in order."""
        for step in set(self.folder.checkpoint_steps()) - self._seen:
            if hold(self.folder.checkpoint(step), self._held / checkpoint_name(step)):
                self._seen.add(step)
        waiting = [step for step in checkpoint_steps(self._held) if step not in self._ended]
        unneeded = self.unneeded(waiting)
        late = set() if self.most_waiting is None else set(waiting[: -self.most_waiting])
        for step in sorted(unneeded | late):
            self._release(step)
            if step in late:
                self.say(f"{self.name} of step {step} is left out: it is slower than the checkpoints come")
                self.skip(step)
        return [step for step in waiting if step not in unneeded | late]

    def _work(self, step: int) -> None:
        try:
            self.handle(self._held / checkpoint_name(step), step)
        except Exception as error:  # training goes on, and the next checkpoint has its chance
            if not self._cancelled:
                kind = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
                self.say(f"warning: {self.name} of step {step}: {kind}{' '.join(str(error).split())}")
        finally:
            self._release(step)

    def _release(self, step: int) -> None:
        self._ended.add(step)
        shutil.rmtree(self._held / checkpoint_name(step), ignore_errors=True)


def hold(source: Path, target: Path) -> bool:
    """Give all files of a checkpoint a second name, or a copy on file systems without hard links.

    Returns:
        False, with nothing left: the run removed the folder meanwhile, or the checkpoint is not complete.
    """
    try:
        with atomic_folder(target) as temporary:
            link_files(source, temporary)
            for name in read_manifest(temporary)["files"]:
                (temporary / name).stat()
    except (shutil.Error, OSError, ValueError, AttributeError):
        return False
    return True
