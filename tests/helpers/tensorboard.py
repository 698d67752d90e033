"""The scalars and pictures that TensorBoard shows of a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of every point."""
    events = _events(folder)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def pictures(folder: Path) -> dict[str, list[int]]:
    """Tag -> steps with a picture."""
    events = _events(folder)
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def _events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return events
