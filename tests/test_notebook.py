"""Run the notebook as a script and in Jupyter, and every example of the page on Python."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import hbt_dist
from tests.analysis.made_search import write_search
from tests.test_docs import load_hooks

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


def run(script: str, folder: Path) -> str:
    """Output of a script that runs in a folder, without a network."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout


def test_the_notebook_is_that_of_the_script() -> None:
    hooks = load_hooks()
    assert NOTEBOOK.read_text("utf-8") == hooks.notebook_document(hooks.NOTEBOOK), "run python docs/hooks.py"
    document = json.loads(NOTEBOOK.read_text("utf-8"))
    nbformat.validate(nbformat.from_dict(document))
    page = hooks.on_page_markdown((ROOT / "docs" / "notebook.md").read_text("utf-8"))
    assert page.startswith("# ")
    assert page.count("```python") == sum(cell["cell_type"] == "code" for cell in document["cells"])


def test_every_public_name_has_an_example() -> None:
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    assert [name for name in hbt_dist.__all__ if f"hbt.{name}" not in page] == []


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    write_search(tmp_path / "searches" / "alpha")
    page = (ROOT / "docs" / "api.md").read_text("utf-8")
    output = run("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), tmp_path)
    assert "batches.alpha: 2: must be less than or equal to 1" in output
    assert "trained 4 steps in " in output
    assert (tmp_path / "results" / "after" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_jupyter_runs_the_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert any(page.count('class="matrix"') == 2 for page in pages), "no matrices before and after"
    text = "\n".join(output.get("text", "") for output in outputs)
    assert re.search(r"capital of Sweden -> Ruotsi: .*", text), text
    quiet = [cell for cell in notebook.cells if "quiet=True" in cell.source]
    assert len(quiet) == 2
    streams = [output for cell in quiet for output in cell.outputs if output["output_type"] == "stream"]
    assert streams == [], "quiet calls print"
    assert "Warning" not in text
