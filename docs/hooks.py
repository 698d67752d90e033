"""What mkdocs does beyond Markdown: tables out of the typed files, links to files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from hbt_dist.config import RunFile
from hbt_dist.search.config import SearchFile
from hbt_dist.study.config import StudyFile

ROOT = Path(__file__).resolve().parents[1]
_FILES = {"RunFile": RunFile, "SearchFile": SearchFile, "StudyFile": StudyFile}
_MARK = re.compile(r"<!-- settings: (\w+) -->")
_OUTSIDE = re.compile(r"\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in; a link out of docs/ becomes the name of an existing file."""
    return _OUTSIDE.sub(_name_file, _MARK.sub(lambda found: settings(_FILES[found[1]]), markdown))


def _name_file(found: re.Match[str]) -> str:
    if not (ROOT / found[1]).exists():
        raise FileNotFoundError(f"a page links to {found[1]}, which does not exist")
    return f"](#) (`{found[1]}`)".replace("](#)", "]")


def settings(kind: type[BaseModel]) -> str:
    """Every key of a file, block by block."""
    parts: list[str] = []
    _block(kind, "", parts, set())
    return "\n\n".join(parts)


def _block(kind: type[BaseModel], prefix: str, parts: list[str], seen: set[type[BaseModel]]) -> None:
    seen.add(kind)
    lines = ["| key | default | meaning |", "|---|---|---|"]
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in kind.model_fields.items():
        blocks = _blocks(field.annotation)
        default = "required" if field.is_required() else f"`{_default(field)}`"
        text = " ".join((field.description or "").split()).replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"| `{name}` | {default} | {text} |")
        inner += [(f"{prefix}{name}", block) for block in blocks if block not in seen]
    title = prefix.removesuffix(".")
    head = f"## `{title}`" if title else "## Top level"
    about = (kind.__doc__ or "").strip().splitlines()[0].replace("<", "&lt;")
    parts.append("\n".join([head, "", about, "", *lines]))
    for place, block in inner:
        if block not in seen:
            _block(block, f"{place}.", parts, seen)


def _default(field: Any) -> Any:
    if field.default is not PydanticUndefined:
        return "..." if isinstance(field.default, BaseModel) else field.default
    return "..."


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for part in get_args(annotation) for block in _blocks(part)]
