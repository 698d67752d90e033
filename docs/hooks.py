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
from hbt_dist.training.deepspeed_config import load_deepspeed_config
from hbt_dist.training.memory import state_bytes

ROOT = Path(__file__).resolve().parents[1]
_FILES = {"RunFile": RunFile, "SearchFile": SearchFile, "StudyFile": StudyFile}
_MARK = re.compile(r"<!-- (settings|include|deepspeed): ([\w./]+) -->")
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
_OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables in; a link out of docs/ becomes its words and the name of an existing file."""
    return _OUTSIDE.sub(_name_file, _MARK.sub(_filled, markdown))


def _filled(mark: re.Match[str]) -> str:
    kind, name = mark[1], mark[2]
    if kind == "settings":
        return settings(_FILES[name])
    if kind == "include":
        title, _, text = (ROOT / name).read_text("utf-8").partition("\n")
        return f"#{title}\n{text}"  # one level below the page's own title
    return deepspeed_choices()


def _name_file(found: re.Match[str]) -> str:
    words, path = found[1], found[2]
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"a page links to {path}, which does not exist")
    return f"`{path}`" if Path(path).name == words else f"{words} (`{path}`)"


def deepspeed_choices() -> str:
    """GiB of states per GPU, models by configurations."""
    lines = ["| model | " + " | ".join(f"`{name}`, {w} GPU{'s' * (w > 1)}" for name, w in _CHOICES) + " |"]
    lines.append("|---|" + "---:|" * len(_CHOICES))
    for model, parameters in _MODELS.items():
        sizes = [state_bytes(load_deepspeed_config(name), parameters, w) / 2**30 for name, w in _CHOICES]
        lines.append(f"| {model} | " + " | ".join(f"{size:.1f}" for size in sizes) + " |")
    return "\n".join(lines)


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
