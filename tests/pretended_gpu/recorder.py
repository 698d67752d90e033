"""Record what a GPU would make the host wait for, with the line of Python that caused it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

_HERE = str(Path(__file__).parent)
_ROOT = str(Path(__file__).resolve().parents[2])
#: The names of their files begin at these packages.
_PACKAGES = ("transformers", "deepspeed", "accelerate", "peft")


@dataclass(frozen=True)
class Event:
    """A synchronisation, or a copy between host and device that needs none.

    Attributes:
        kind: of the event, in words.
        synchronises: whether the host waits until the device has done all earlier work.
        num_bytes: copied.
        source: line that caused it, and the line of the project that called that.
    """

    kind: str
    synchronises: bool
    num_bytes: int
    source: str


@dataclass
class Recorder:
    """The events of a process, in their order."""

    events: list[Event] = field(default_factory=list)

    def add(self, kind: str, *, synchronises: bool = True, num_bytes: int = 0) -> None:
        """Record an event at the caller's line."""
        self.events.append(Event(kind, synchronises, num_bytes, _source()))

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()

    @property
    def synchronisations(self) -> list[Event]:
        """The events that stop the host."""
        return [event for event in self.events if event.synchronises]

    def lines(self) -> list[str]:
        """Return a line per cause: count, kind, bytes, source; most frequent first."""
        counts = Counter((event.kind, event.source) for event in self.synchronisations)
        sizes: Counter[tuple[str, str]] = Counter()
        for event in self.synchronisations:
            sizes[event.kind, event.source] += event.num_bytes
        return [
            f"{count:5d} x {kind:<24} {sizes[kind, source]:>10,d} B  {source}"
            for (kind, source), count in counts.most_common()
        ]


def _source() -> str:
    """Return the innermost line outside torch, and the innermost line of the project if that differs."""
    innermost = project = ""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not project:
        name = frame.f_code.co_filename
        parts = Path(name).parts
        if not name.startswith(_HERE) and "torch" not in parts:
            ours = name.startswith(_ROOT) and "site-packages" not in parts
            first = len(_ROOT) + 1 if ours else max(name.rfind(f"/{package}/") for package in _PACKAGES) + 1
            line = f"{name[first:]}:{frame.f_lineno} {frame.f_code.co_name}"
            innermost = innermost or line
            if ours:
                project = line
        frame = frame.f_back
    if project in ("", innermost):
        return innermost or "a thread of torch"
    return f"{innermost} < {project}"
