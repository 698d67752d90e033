"""The documentation builds without a warning, and says what the typed files say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hbt_dist
import hbt_dist.analysis
from tests.analysis.made_search import write_search

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
    for name in {*hbt_dist.__all__, *hbt_dist.analysis.__all__} - {
        "Analysis",
        "analyse",
        "write_search_report",
    }:
        assert re.search(rf'id="hbt_dist\.[\w.]*\b{name}"', api), f"{name} is not on the API page"
    for file in (tmp_path / "site").rglob("*.html"):
        article = file.read_text("utf-8").split("<article", 1)[-1].split("</article", 1)[0]
        assert "] (" not in re.sub("<pre.*?</pre>|<code.*?</code>", "", article, flags=re.DOTALL), file


def test_the_readme_names_existing_files() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    files = re.findall(
        r"(?:ray_configs|launchers|benchmarks|deepspeed_configs)/[\w./-]+\.(?:yaml|py|sh|md|json)", text
    )
    assert len(links) + len(files) > 20
    missing = [name for name in [*links, *files] if not (ROOT / name).exists()]
    assert missing == []


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    write_search(tmp_path / "searches" / "alpha")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "notebook.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert "step 3: " in done.stdout
    assert "knee of the front:" in done.stdout
    assert (tmp_path / "results" / "after" / "report.html").is_file()


def test_every_exported_name_is_there() -> None:
    for name in hbt_dist.__all__:
        assert getattr(hbt_dist, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hbt_dist.nothing
