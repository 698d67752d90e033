"""The command line in this process."""

from __future__ import annotations

from typing import Any

import pytest

from hbt_dist.cli.main import main


def call_main(
    monkeypatch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    *arguments: Any,
    rank: str | None = None,
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `hbt-dist` with these arguments; `rank` is the variable RANK."""
    monkeypatch.setattr("sys.argv", ["hbt-dist", *map(str, arguments)])
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    capture.readouterr()
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    shown = capture.readouterr()
    return code, shown.out, shown.err
