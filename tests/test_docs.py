"""Build the documentation without a warning, and compare it with the typed files and the package."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

import hbt_dist
import hbt_dist.analysis
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.comparison.typology import DISTANCES, _table, language_distances
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.settings import OPTIONS, DataSettings, SourceSettings
from hbt_dist.run_file import RunFile

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
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
    notebook = (tmp_path / "site" / "notebook" / "index.html").read_text("utf-8")
    assert "Every pair of languages, as a data frame" in notebook
    for name in {*hbt_dist.__all__, *hbt_dist.analysis.__all__} - {
        "Analysis",
        "analyse",
        "write_search_report",
    }:
        assert re.search(rf'id="hbt_dist\.[\w.]*\b{name}"', api), f"{name} is not on the API page"
    for file in (tmp_path / "site").rglob("*.html"):
        article = file.read_text("utf-8").split("<article", 1)[-1].split("</article", 1)[0]
        assert "] (" not in re.sub("<pre.*?</pre>|<code.*?</code>", "", article, flags=re.DOTALL), file


def test_tables_in_the_repository_are_those_of_the_typed_files() -> None:
    hooks = load_hooks()
    pages = {page: page.read_text("utf-8") for page in (ROOT / "docs").glob("*.md")}
    old = [page.name for page, text in pages.items() if hooks.written(text) != text]
    assert old == [], "run python docs/hooks.py"
    run_file = pages[ROOT / "docs" / "run_file.md"]
    assert "| `alpha` |" in run_file
    assert hooks.written(run_file.replace("| `alpha` |", "| `beta` |")) == run_file
    assert hooks.on_page_markdown(run_file).count("| `alpha` |") == run_file.count("| `alpha` |")


def test_the_messages_of_the_page_on_clusters_are_those_of_the_package() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \| ", page[page.index("| message |") :], re.MULTILINE)
    quoted = [message for row in rows for message in re.findall(r"`([^`]+)`", row)]
    fragments = {part.strip(" '") for message in quoted for part in re.split(r"\.\.\.|[:,]", message)}
    literals = [
        node.value
        for file in (ROOT / "hbt_dist").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert len(rows) > 5
    missing = [part for part in fragments if len(part) > 8 and not any(part in text for text in literals)]
    assert missing == []


def test_contributing_registers_parts_in_names_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    pairs = re.findall(r"`(\w+)`(?: and `(\w+)`)? in `(hbt_dist/[\w/]+\.py)`", text)
    assert len(pairs) >= 5
    for *names, path in pairs:
        source = (ROOT / path).read_text("utf-8")
        for name in filter(None, names):
            assert re.search(rf"^{name}\b", source, re.MULTILINE), f"{name} in {path}"


def test_contributing_shows_the_rooms_of_the_architecture_test() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    assert load_hooks().with_rooms(text) == text, "run python docs/hooks.py"
    assert "contrastive" in text[text.index("<!-- rooms:begin") : text.index("<!-- rooms:end")]


def load_hooks() -> ModuleType:
    """docs/hooks.py, as mkdocs loads it."""
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_key_has_its_type_and_a_description() -> None:
    """Every key has a description, its values, and the meaning of a default null."""
    hooks = load_hooks()
    for kind in hooks._FILES.values():
        page = hooks.settings(kind)
        blocks: dict[type[BaseModel], str] = {}
        hooks._collect(kind, "", blocks)
        assert page.count("\n## ") + 1 == len(blocks)
        for block, key in blocks.items():
            table = hooks._table(block, key, blocks).splitlines()
            for name, field in block.model_fields.items():
                about = field.description or ""
                assert len(about) >= 20, f"{block.__name__}.{name} says {about!r}"
                row = next(line for line in table if line.startswith(f"| `{name}` | "))
                _, value, default, _ = [cell.strip() for cell in re.split(r"(?<!\\)\|", row)][1:-1]
                assert value, row
                assert default, row
                if default == "`null`" and "exactly one form" not in (block.__doc__ or ""):
                    meaning = re.search(r"\b(none|null|default|empty|absent)\b", about, re.IGNORECASE)
                    assert meaning, f"{block.__name__}.{name} does not describe null"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "whole number at least 0 and below 2^63"),
        ("alpha", "number from 0 to 1, [block](#batchesalpha), or `null`"),
        ("temperature", "number above 0"),
        ("kind", "`monolingual`, `crosslingual`, `mixed_monolingual`, `any_pair`, or `module:function`"),
        ("sources", "list (at least 1 long) of [block](#datasources)"),
        ("pairs", "`uniform`, `size`, [block](#batcheslanguages), or mapping of text to number at least 0"),
        ("betas", "list of 2 times number"),
        ("text", "[block](#modeltext)"),
        ("use_gpu", "`true` or `false`, or `auto`"),
        ("config", "text, whole number, mapping of text to any value, or `null`"),
    ],
)
def test_values_in_words(name: str, value: str) -> None:
    page = load_hooks().settings(RunFile)
    assert f"| `{name}` | {value} | " in page


def test_options_of_each_format_are_listed() -> None:
    page = load_hooks().settings(RunFile)
    for name, options in OPTIONS.items():
        shown = ", ".join(f"`{option}`" for option in sorted(options))
        assert f"| `{name}` | {shown} |" in page


def test_the_page_on_typology_has_the_figures_of_the_tables() -> None:
    page = (ROOT / "docs" / "typology.md").read_text("utf-8")
    for name in ("uriel_syntax_knn", "grambank", "coordinates"):
        table = _table(f"{name}.csv")
        assert re.search(rf"`{name}.csv` \| .* \| {len(table)} \| ", page), name
    (header,) = re.findall(r"^\| \| (de .*) \|$", page, re.MULTILINE)
    codes = header.split(" | ")
    for source in ("syntax", "grambank"):
        (row,) = re.findall(rf"^\| `{source}` \| ((?:[.\d-]+ \| )+[.\d-]+) \|$", page, re.MULTILINE)
        found = language_distances(["en", *codes], source)[0, 1:]
        want = ["-" if np.isnan(one) else f"{one:.3f}" for one in found]
        assert row.split(" | ") == want
    xquad = ["ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh"]
    pairs = np.triu_indices(len(xquad), 1)
    values = {source: language_distances(xquad, source)[pairs] for source in DISTANCES}
    assert f"of XQuAD-R's 55 pairs {(~np.isnan(values['grambank'])).sum()} have" in " ".join(page.split())
    for other, shown in (("family", "0.60"), ("grambank", "0.52"), ("geography", "0.41")):
        both = ~np.isnan(values["syntax"] + values[other])
        correlation = np.corrcoef(values["syntax"][both], values[other][both])[0, 1]
        assert f"{correlation:.2f}" == shown
        assert f"{shown} with" in page


PAGES = [
    path
    for pattern in ("*.md", "docs/*.md", "deepspeed_configs/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_module_and_test_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#\s]+)\)", text)]
    rooms = "hbt_dist|tests|benchmarks|docs|launchers|ray_configs|deepspeed_configs"
    names = re.findall(rf"(?<![\w/])(?:{rooms})/[\w./-]*\w", text)
    paths = [*links, *(ROOT / name for name in names if not re.search(r"[A-Z]{4}", name))]
    missing = [str(path) for path in paths if not path.exists()]
    missing += [name for name in re.findall(r"\bhbt_dist(?:\.\w+)+", text) if not defined(name)]
    missing += [
        f"{file}::{name}"
        for file, name in re.findall(r"(test_\w+\.py)::(test_\w+)", text)
        if not any(f"def {name}(" in test.read_text("utf-8") for test in ROOT.glob(f"tests/**/{file}"))
    ]
    assert missing == []


def defined(dotted: str) -> bool:
    """Whether a name such as hbt_dist.room.module.function is a module, or bound at the top of its module."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        folder = ROOT.joinpath(*parts[:length])
        source = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        if source.is_file():
            if length == len(parts):
                return True
            name = parts[-1]
            bound = rf'^(?:def|class) {name}\b|^{name}\b|^ +{name},|"{name}"'
            return length == len(parts) - 1 and bool(
                re.search(bound, source.read_text("utf-8"), re.MULTILINE)
            )
    return False


def test_undefined_names_are_noticed() -> None:
    assert defined("hbt_dist.batching.plan.BatchPlan")
    assert not defined("hbt_dist.batching.plan.NoPlan")
    assert not defined("hbt_dist.no_room.plan")


def test_every_exported_name_is_there() -> None:
    for name in hbt_dist.__all__:
        assert getattr(hbt_dist, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hbt_dist.nothing


def test_the_run_files_of_the_data_page_are_valid() -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]
    assert len(blocks) == 5
    for block in blocks:
        assert block.keys() <= {"data", "batches"}
        DataSettings.model_validate(block["data"])
        BatchSettings.model_validate(block.get("batches", {"global_batch_size": 8}))


def test_the_data_page_shows_every_format_and_reader_without_mkdocs() -> None:
    """On GitHub, which doesn't know mkdocstrings, its marks would be raw text where the formats belong."""
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    assert ":::" not in page
    for name in (*OPTIONS, "beir"):
        assert f"| `{name}`" in page, name
    named = set(re.findall(r"<!-- reader: (hbt_dist\.data\.\w+\.readers\.\w+) -->", page))
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hbt_dist" / "data").glob("*/readers/*.py")
        if path.stem not in ("__init__", "base", "sample", "tables")
    }
    assert len(modules) > 10
    assert modules == named
    shown = load_hooks().on_page_markdown(page)
    assert "::: hbt_dist.data.corpus.readers.jsonl" in shown


def test_the_example_lines_of_the_data_page_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "data.md").read_text("utf-8")
    lines = [line for line in re.findall(r"`(\{.*?\})`(?=[ ,])", page) if line.startswith('{"')]
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 12
    first, flag = rows[0], rows[1]
    columns = {"question": "query", "passage": "pos", "negatives": "neg", "language": "en"}
    for row, options in ((first, {}), (flag, {"columns": columns})):
        (tmp_path / "train.jsonl").write_text(json.dumps(row), "utf-8")
        path = str(tmp_path / "train.jsonl")
        source = SourceSettings(name="one", format="jsonl", path=path, **options)  # type: ignore[arg-type]
        (found,) = open_source(source, None, "refuse").records()
        assert found.question["en"] == "Where is Turku?"
        assert found.passage["en"] == "Turku is in Finland."
