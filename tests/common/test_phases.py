"""A phase is announced when it begins; a long one prints its seconds."""

from __future__ import annotations

import pytest

from hbt_dist.common import phases


def test_a_phase_is_announced_before_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    clock = iter([0.0, 1.0, 0.0, 3.0])
    monkeypatch.setattr(phases.time, "monotonic", lambda: next(clock))
    with phases.phase(lines.append, "short"):
        assert lines == ["short"]
    with phases.phase(lines.append, "long", 4):
        assert lines == ["short", "long: about 4.0 s"]
    assert lines[2:] == ["  took 3.0 s"]
