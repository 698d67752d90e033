"""Follow a running training by its files, and pass its figures to listeners: trackers, callbacks.

The process that runs `hbt-dist train` follows, so no worker imports a tracker and no step waits for a
listener. Figures arrive up to half a second late. A resumed training repeats steps exactly: a step that was
passed before is not passed again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from hbt_dist.common.console import note
from hbt_dist.common.errors import last_line
from hbt_dist.common.files import read_json_lines
from hbt_dist.training.run_folder import RunFolder

POLL_SECONDS = 0.5


class Listener(Protocol):
    """Receive what a training records; derive from it and define the methods that matter.

    A listener that raises an error gets nothing further; the training continues.

    Attributes:
        reported: last step that an earlier process has passed; default: the listener gets the steps behind
            the newest checkpoint, from which this start continues.
        validated: lines of validation.jsonl that an earlier process has passed; default: those of now.
    """

    reported: int | None = None
    validated: int | None = None

    def step(self, step: int, figures: dict[str, Any]) -> None:
        """Receive a finished step, counted from 1, with its figures as in metrics.jsonl."""

    def validation(self, line: dict[str, Any]) -> None:
        """Receive a line of validation.jsonl: the figures of a checkpoint on a benchmark.

        A line with ``failed`` or ``left_out`` has none.
        """

    def evaluated(self, when: str, label: str, folder: Path, png: bytes) -> None:
        """Receive an evaluation.

        Args:
            when: start or end.
            label: of the benchmark.
            folder: of the evaluation.
            png: picture of the matrix of language pairs.
        """

    def close(self) -> None:
        """Receive the end of the training."""


@contextmanager
def follow(folder: RunFolder, listeners: list[Listener]) -> Iterator[None]:
    """Pass steps and validation figures to listeners during the block, all of them by its end.

    Args:
        folder: of the run.
        listeners: one that raises an error leaves the list.
    """
    if not listeners:
        yield
        return
    with polled(_Follower(folder, listeners).read, "follow"):
        yield


def succeeds(listener: Listener, call: Callable[[], None]) -> bool:
    """Call a method of a listener; print a note and return False if it fails."""
    try:
        call()
    except Exception as error:
        name = getattr(listener, "name", type(listener).__name__)
        note(f"{name} failed and gets no further figures: {last_line(error)}")
        return False
    return True


@contextmanager
def polled(read: Callable[[], None], name: str, seconds: float = POLL_SECONDS) -> Iterator[None]:
    """Call `read` every `seconds` in a thread, and once more at the end of the block.

    Args:
        name: of the thread.
    """
    stop = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = stop.wait(seconds)
            read()

    thread = threading.Thread(target=poll, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=60)  # a server can be silent


class NewLines:
    """Read the complete lines that a file has gained since the last call.

    Args:
        path: the file; it may appear later.
        from_start: also return the lines that the file holds now.
    """

    def __init__(self, path: Path, *, from_start: bool = False) -> None:
        self._path = path
        self._position = path.stat().st_size if path.is_file() and not from_start else 0

    def read(self) -> list[str]:
        """Return the new lines."""
        try:
            self._position = min(self._position, self._path.stat().st_size)  # a restart truncates the file
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except OSError:
            return []
        complete = new[: new.rfind(b"\n") + 1]
        self._position += len(complete)
        return complete.decode("utf-8", errors="replace").splitlines()

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the new lines that are JSON objects with a step."""
        for line in self.read():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and "step" in row:
                yield row


class StepRows:
    """Read each step's line of a metrics file once, although a restart cuts the file and repeats steps.

    Args:
        path: the file.
        after: first steps to leave out.
    """

    def __init__(self, path: Path, after: int) -> None:
        self._path, self._last = path, after
        self._inode: int | None = None
        self._lines = NewLines(path, from_start=True)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of new steps."""
        try:
            inode = self._path.stat().st_ino
        except OSError:
            return
        if inode != self._inode:  # a start replaces the file
            self._inode, self._lines = inode, NewLines(self._path, from_start=True)
        for row in self._lines.rows():
            if row["step"] > self._last:
                self._last = row["step"]
                yield row


class _Follower:
    """Pass new steps and validation figures to the listeners that lack them."""

    def __init__(self, folder: RunFolder, listeners: list[Listener]) -> None:
        self._remaining = listeners
        newest = max(folder.checkpoint_steps(), default=0)
        lines = len(read_json_lines(folder.validation))
        self._listeners = [
            _Passed(
                listener,
                newest if listener.reported is None else listener.reported,
                lines if listener.validated is None else listener.validated,
            )
            for listener in listeners
        ]
        self._steps = StepRows(folder.metrics, min([newest, *(passed.step for passed in self._listeners)]))
        self._validation = NewLines(folder.validation, from_start=True)
        self._lines = 0

    def read(self) -> None:
        for row in self._steps.read():
            step = row.pop("step")
            for passed in [passed for passed in self._listeners if step > passed.step]:
                self._pass(passed, partial(passed.listener.step, step, dict(row)))
        for line in self._validation.rows():
            self._lines += 1
            for passed in [passed for passed in self._listeners if self._lines > passed.lines]:
                self._pass(passed, partial(passed.listener.validation, dict(line)))

    def _pass(self, passed: _Passed, call: Callable[[], None]) -> None:
        if not succeeds(passed.listener, call):
            self._listeners.remove(passed)
            self._remaining.remove(passed.listener)


@dataclass(frozen=True, eq=False)
class _Passed:
    """A listener, and what it had before this start: the last step, lines of validation.jsonl."""

    listener: Listener
    step: int
    lines: int
