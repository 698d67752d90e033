"""The documentation builds without a warning, and says what the typed files say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.timeout(300)
def test_docs_build_strictly_and_list_every_key(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNING" not in done.stderr, done.stderr[-3000:]
    page = (tmp_path / "site" / "run_file" / "index.html").read_text("utf-8")
    for key in (
        "global_batch_size",
        "exclude_overlap_with",
        "grad_reduction",
        "early_stopping",
        "trained_as",
    ):
        assert f"<code>{key}</code>" in page, key
    api = (tmp_path / "site" / "api" / "index.html").read_text("utf-8")
    assert "pareto_front" in api


def test_the_readme_names_existing_files() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    files = re.findall(
        r"(?:ray_configs|launchers|benchmarks|deepspeed_configs)/[\w./-]+\.(?:yaml|py|sh|md|json)", text
    )
    assert len(links) + len(files) > 20
    missing = [name for name in [*links, *files] if not (ROOT / name).exists()]
    assert missing == []
