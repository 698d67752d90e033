"""Pages of every kind, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports.made_pages import make_pages


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of page -> its file."""
    return make_pages(tmp_path_factory.mktemp("pages"))
