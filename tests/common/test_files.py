"""Files that are written in one step."""

from __future__ import annotations

from pathlib import Path

from hbt_dist.common.files import atomic_file


def test_two_processes_with_the_same_number_can_write_the_same_file(tmp_path: Path) -> None:
    """Containers of two nodes may both be process 45: neither loses what it writes."""
    path = tmp_path / "manifest.json"
    with atomic_file(path) as first:
        first.write_text("first")
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]
