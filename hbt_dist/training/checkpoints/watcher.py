"""What happens to a run's checkpoints beside the training: a thread that hands on every new one.

The thread looks into the run's folder, so it works in whatever process sees that folder: the driver of a Ray
run, or rank 0. A checkpoint is held by hard links while somebody works with it; the run may remove its own
copy meanwhile. Training waits for nothing of this but the end: what is still to be done then is done.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from hbt_dist.common.errors import UserError
from hbt_dist.training.checkpoints.store import read_manifest
from hbt_dist.training.run_folder import RunFolder

#: Works with a held checkpoint of a step.
Handle = Callable[[Path, int], None]


class CheckpointFollower:
    """Hands every complete checkpoint to `handle`, one at a time.

    Args:
        folder: of the run.
        name: of the work; two followers of one run need two names.
        handle: does it; what it raises is said and ends nothing.
        done: steps that need it no more (of earlier starts).
        newest_first: else in the order of the steps.
        most_waiting: more checkpoints than these do not wait: the oldest ones are given to `skip`.
        unneeded: of the steps that wait (in order), those that need the work no more.
        say: where messages go.
        every: seconds between two looks.
    """

    def __init__(
        self,
        folder: RunFolder,
        name: str,
        handle: Handle,
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
        self.done = set(done or ())
        self.newest_first, self.most_waiting, self.skip, self.every = newest_first, most_waiting, skip, every
        self.unneeded = unneeded
        self._ended: set[int] = set()  # handled or left out; removing what was held may take longer
        self._held = folder.root / f"held-{name}"
        self._stop, self._cancelled = threading.Event(), False
        self._thread = threading.Thread(target=self._follow, name=name, daemon=True)

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

    def _follow(self) -> None:
        last = False
        while not last:
            last = self._stop.wait(self.every)
            while (waiting := self._hold_new()) and not self._cancelled:
                self._work(waiting[-1 if self.newest_first else 0])

    def _hold_new(self) -> list[int]:
        """Hold what is new; all steps that wait, in order."""
        for step in self.folder.checkpoint_steps():
            if step not in self.done and hold(self.folder.checkpoint(step), self._place(step)):
                self.done.add(step)
        held = (int(path.name.removeprefix("step-")) for path in self._held.glob("step-*[0-9]"))
        waiting = sorted(set(held) - self._ended)
        unneeded = self.unneeded(waiting)
        late = set() if self.most_waiting is None else set(waiting[: -self.most_waiting])
        for step in sorted(unneeded | late):
            self._let_go(step)
            if step in late:
                self.say(f"{self.name} of step {step} is left out: it is slower than the checkpoints come")
                self.skip(step)
        return [step for step in waiting if step not in unneeded | late]

    def _work(self, step: int) -> None:
        try:
            self.handle(self._place(step), step)
        except Exception as error:  # whatever it is, the next checkpoint has its chance and training goes on
            if not self._cancelled:
                kind = "" if isinstance(error, UserError | OSError) else f"{type(error).__name__}: "
                self.say(f"warning: {self.name} of step {step}: {kind}{' '.join(str(error).split())}")
        finally:
            self._let_go(step)

    def _let_go(self, step: int) -> None:
        self._ended.add(step)
        shutil.rmtree(self._place(step), ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self._held / f"step-{step:010d}"


def hold(source: Path, to: Path) -> bool:
    """Give a checkpoint's files a second name (a copy where links are not to be had), all of them or none.

    Returns:
        False: the folder was removed meanwhile, or is no complete checkpoint.
    """
    beside = to.with_suffix(".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        shutil.copytree(source, beside, copy_function=_link)
        complete = all((beside / name).is_file() for name in read_manifest(beside)["files"])
    except (shutil.Error, OSError, ValueError, KeyError):  # in the middle of its removal, or damaged
        complete = False
    if not complete:
        shutil.rmtree(beside, ignore_errors=True)
        return False
    beside.rename(to)
    return True


def _link(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except FileNotFoundError:
        raise
    except OSError:  # no hard links here
        shutil.copy2(source, to)
