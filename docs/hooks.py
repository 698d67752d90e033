"""Fill mkdocs pages with tables of the typed files, and replace links to files of the repository.

    python docs/hooks.py    # write tables into the pages, rooms into CONTRIBUTING.md, and the notebook

A table is between its mark and `<!-- end -->`. The site fills it anew, and a test compares the two.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hbt_dist.config.user_functions import UserFunction
from hbt_dist.data.corpus.settings import OPTIONS, options_of
from hbt_dist.models.settings import ModelSettings, TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.search.settings import SearchFile
from hbt_dist.study.settings import StudyFile
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.memory import count_states

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs" / "notebook.py"
_FILES = {"RunFile": RunFile, "SearchFile": SearchFile, "StudyFile": StudyFile}
_MARK = re.compile(
    r"<!-- (settings|include|deepspeed|reader|notebook): ([\w./]+) -->(?:\n\n(?:(?!<!--).)*<!-- end -->)?",
    re.DOTALL,
)
_MODELS = {
    "multilingual E5 small, 118 M": 118e6,
    "XLM-R base, 278 M": 278e6,
    "LaBSE, 471 M": 471e6,
    "XLM-R large, BGE-M3, 560 M": 560e6,
    "1.5 B": 1.5e9,
    "7 B": 7e9,
}
_CHOICES = [
    (name, w) for w in (1, 8) for name in ("zero1", "zero2_bf16", "zero3") if (name, w) != ("zero3", 1)
]
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_LENGTHS = {"min_length": "at least", "max_length": "at most"}
_OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables; replace a link out of docs/ by its words and the name of the file."""
    return _OUTSIDE.sub(_name_file, _MARK.sub(_filled, markdown))


def _filled(mark: re.Match[str]) -> str:
    kind, name = mark[1], mark[2]
    if kind == "settings":
        return settings(_FILES[name])
    if kind == "include":
        title, _, text = (ROOT / name).read_text("utf-8").partition("\n")
        return f"#{title}\n{text}"  # one level below the page's own title
    if kind == "reader":  # the mark is a comment: GitHub would show mkdocstrings' mark as text
        return f"::: {name}\n    options: {{members: false, heading_level: 3, show_root_heading: true}}"
    if kind == "notebook":
        return "\n\n".join(
            text if is_text else f"```python\n{text}\n```" for is_text, text in notebook_cells(ROOT / name)
        )
    return deepspeed_choices()


def notebook_cells(script: Path) -> list[tuple[bool, str]]:
    """Return the cells of a script in percent format: whether a cell is Markdown, and its text."""
    cells = []
    for cell in re.split(r"(?m)^(?=# %%)", script.read_text("utf-8"))[1:]:
        mark, _, text = cell.partition("\n")
        is_text = mark == "# %% [markdown]"
        cells.append((is_text, (re.sub(r"(?m)^# ?", "", text) if is_text else text).strip()))
    return cells


def notebook_document(script: Path) -> str:
    """Return a script in percent format as a Jupyter notebook without outputs."""
    cells = [
        {
            "cell_type": "markdown" if is_text else "code",
            "id": f"cell-{number}",
            "metadata": {},
            "source": text.splitlines(keepends=True),
            **({} if is_text else {"execution_count": None, "outputs": []}),
        }
        for number, (is_text, text) in enumerate(notebook_cells(script))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def written(markdown: str) -> str:
    """Return a page with every table of the typed files filled in, as the repository has it."""

    def table(mark: re.Match[str]) -> str:
        if mark[1] in ("include", "reader", "notebook"):
            return mark[0]
        return f"<!-- {mark[1]}: {mark[2]} -->\n\n{_filled(mark)}\n\n<!-- end -->"

    return _MARK.sub(table, markdown)


def _name_file(link: re.Match[str]) -> str:
    words, path = link[1], link[2]
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"a page links to {path}, which does not exist")
    return f"`{path}`" if Path(path).name == words else f"{words} (`{path}`)"


def deepspeed_choices() -> str:
    """Return the table of GiB of states per GPU, models by configurations."""
    lines = ["| model | " + " | ".join(f"`{name}`, {w} GPU{'s' * (w > 1)}" for name, w in _CHOICES) + " |"]
    lines.append("|---|" + "---:|" * len(_CHOICES))
    for model, parameters in _MODELS.items():
        sizes = [
            count_states(resolve_deepspeed(DeepSpeedSettings(config=name)), int(parameters), w).total / 2**30
            for name, w in _CHOICES
        ]
        lines.append(f"| {model} | " + " | ".join(f"{size:.1f}" for size in sizes) + " |")
    return "\n".join(lines)


def settings(kind: type[BaseModel]) -> str:
    """Return the tables of all keys of a file, block by block."""
    keys: dict[type[BaseModel], str] = {}
    _collect(kind, "", keys)
    return "\n\n".join(_table(block, key, keys) for block, key in keys.items())


def _collect(kind: type[BaseModel], key: str, keys: dict[type[BaseModel], str]) -> None:
    """Add every block of a file with the first key that holds it."""
    keys[kind] = key
    for name, field in kind.model_fields.items():
        for block in _blocks(_annotation(kind, name, field)):
            if block not in keys:
                _collect(block, f"{key}.{name}".strip("."), keys)


def _table(kind: type[BaseModel], key: str, keys: Mapping[type[BaseModel], str]) -> str:
    about = (kind.__doc__ or "").strip().splitlines()[0]
    lines = [f"## `{key}`" if key else "## Top level", "", _escaped(about), ""]
    lines += ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in kind.model_fields.items():
        text = " ".join((field.description or "").split())
        value = _words(_annotation(kind, name, field), list(field.metadata), keys)
        lines.append(f"| `{name}` | {value} | {_default(field)} | {_escaped(text)} |")
    if key == "data.sources":
        lines += ["", "Options of each format besides name, format, languages and limit:", ""]
        lines += ["| format | options |", "|---|---|"]
        for name in [*OPTIONS, "module:function"]:
            lines.append(f"| `{name}` | {', '.join(f'`{option}`' for option in sorted(options_of(name)))} |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


def _default(field: FieldInfo) -> str:
    """Return the default in YAML; the defaults of a block are in its table."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    value = {} if isinstance(value, BaseModel) else value
    plain = list(value) if isinstance(value, tuple) else value
    shown = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False)
    return f"`{shown.removesuffix(chr(10)).removesuffix('...').strip()}`"


def _annotation(kind: type[BaseModel], name: str, field: FieldInfo) -> Any:
    """Return the type of a key; the type of `model.text` is the class that validates it."""
    return TextSettings if (kind, name) == (ModelSettings, "text") else field.annotation


def _words(annotation: Any, bounds: list[Any], keys: Mapping[type[BaseModel], str]) -> str:
    """Describe the values of a key: type, allowed values, bounds.

    Args:
        bounds: metadata of pydantic.
        keys: the key of each block, which is the title of its table.
    """
    if annotation == UserFunction:
        return "`module:function`"
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [item.metadata if isinstance(item, FieldInfo) else [item] for item in parts[1:]]
        return _words(parts[0], [*bounds, *(bound for group in inner for bound in group)], keys)
    if origin in (Union, UnionType):
        ordered = sorted(parts, key=lambda part: part is NoneType)
        choices = list(dict.fromkeys(_words(part, bounds, keys) for part in ordered))
        return f"{', '.join(choices[:-1])}, or {choices[-1]}" if len(choices) > 1 else choices[0]
    if origin is Literal:
        return ", ".join(f"`{yaml.safe_dump(value).splitlines()[0]}`" for value in parts)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        anchor = re.sub(r"[^\w-]", "", keys[annotation]).lower()
        return f"[block](#{anchor})"
    return _limited(annotation, origin, parts, bounds, keys)


def _limited(
    annotation: Any,
    origin: Any,
    parts: Sequence[Any],
    bounds: list[Any],
    keys: Mapping[type[BaseModel], str],
) -> str:
    """Describe a plain type or a container with its bounds."""
    limits = {
        name: getattr(bound, name)
        for bound in bounds
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")
        if getattr(bound, name, None) is not None
    }
    if origin in (list, tuple) and (origin is list or parts[-1] is Ellipsis):
        return f"list{_length(limits)} of {_words(parts[0], [], keys)}"
    if origin is tuple:
        return f"list of {len(parts)} times {_words(parts[0], [], keys)}"
    if origin is dict:
        key, value = (_words(part, [], keys) for part in parts)
        return f"mapping{_length(limits)} of {key} to {value}"
    if annotation in (int, float):
        return f"{'whole number' if annotation is int else 'number'}{_range(limits)}"
    if annotation is str:
        return f"text of the form `{limits['pattern']}`" if "pattern" in limits else "text"
    return {bool: "`true` or `false`", NoneType: "`null`", Any: "any value"}[annotation]


def _length(limits: Mapping[str, Any]) -> str:
    words = [f"{word} {limits[name]}" for name, word in _LENGTHS.items() if name in limits]
    return f" ({', '.join(words)} long)" if words else ""


def _range(limits: Mapping[str, Any]) -> str:
    if limits.keys() >= {"ge", "le"}:
        return f" from {_number(limits['ge'])} to {_number(limits['le'])}"
    words = [f"{word} {_number(limits[name])}" for name, word in _BOUNDS.items() if name in limits]
    return f" {' and '.join(words)}" if words else ""


def _number(value: float) -> str:
    return "2^63" if value == 2**63 else f"{value:g}"


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for part in get_args(annotation) for block in _blocks(part)]


def with_rooms(markdown: str) -> str:
    """Return CONTRIBUTING.md with the picture of the rooms from the architecture test."""
    picture = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["picture"]()
    block = f"<!-- rooms:begin -->\n\n```text\n{picture}\n```\n\n<!-- rooms:end -->"
    return re.sub(r"<!-- rooms:begin -->.*<!-- rooms:end -->", lambda _: block, markdown, flags=re.DOTALL)


if __name__ == "__main__":
    for page in [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]:
        before = page.read_text("utf-8")
        after = with_rooms(before) if page.name == "CONTRIBUTING.md" else written(before)
        if after != before:
            page.write_text(after, "utf-8")
            print(page.relative_to(ROOT))
    NOTEBOOK.with_suffix(".ipynb").write_text(notebook_document(NOTEBOOK), "utf-8")
