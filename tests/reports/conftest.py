"""Pages of every kind, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation.conftest import make_benchmark, make_embeddings, tiny_model
from tests.reports.made_pages import make_pages

__all__ = ["make_benchmark", "make_embeddings", "tiny_model"]


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind of page -> its file."""
    return make_pages(tmp_path_factory.mktemp("pages"))
